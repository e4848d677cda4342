import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from torch import Tensor

from mask_cases import assert_padding_is_zero
from metasd import kernels


def test_bit_j_of_word_w_is_column_32_w_plus_j() -> None:
    for column in (0, 1, 30, 31, 32, 63, 64, 69):
        kept = torch.zeros(2, 70, dtype=torch.bool)
        kept[1, column] = True
        words = torch.zeros(2, 3, dtype=torch.int64)
        words[1, column // 32] = 1 << column % 32
        assert torch.equal(kernels.pack_mask(kept).long() & 0xFFFFFFFF, words)
    assert kernels.pack_mask(torch.arange(32).eq(31)[None]).item() == -(2**31)  # the sign bit
    assert kernels.pack_mask(torch.ones(1, 33, dtype=torch.bool)).tolist() == [[-1, 1]]


@given(kept=arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=100)))
@settings(max_examples=60, deadline=None)
def test_unpacking_undoes_packing(kept: NDArray[np.bool_]) -> None:
    bits = kernels.pack_mask(torch.from_numpy(kept))
    assert bits.dtype == torch.int32
    assert bits.shape == (kept.shape[0], (kept.shape[1] + 31) // 32)
    assert_padding_is_zero(bits, kept.shape[1])
    np.testing.assert_array_equal(kernels.unpack_mask(bits, kept.shape[1]), kept)


@given(
    bits=arrays(np.int32, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=4)),
    slack=st.integers(0, 31),
)
@settings(max_examples=60, deadline=None)
def test_packing_undoes_unpacking_but_for_the_padding(bits: NDArray[np.int32], slack: int) -> None:
    columns = max(bits.shape[1] * 32 - slack, 0)
    again = kernels.pack_mask(kernels.unpack_mask(torch.from_numpy(bits), columns)).numpy()
    wanted = bits.view(np.uint32).copy()
    if columns:
        wanted[:, -1] &= np.uint32(0xFFFFFFFF >> slack)
    np.testing.assert_array_equal(again.view(np.uint32), wanted)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: kernels.pack_mask(torch.zeros(2, 3)),
            TypeError,
            "kept must be bool (rows, columns)",
        ),
        (
            lambda: kernels.pack_mask(torch.zeros(3, dtype=torch.bool)),
            TypeError,
            "got torch.bool (3,)",
        ),
        (lambda: kernels.unpack_mask(torch.zeros(2, 3), 70), TypeError, "bits must be int32"),
        (
            lambda: kernels.unpack_mask(torch.zeros(2, 3, dtype=torch.int32), 97),
            ValueError,
            "97 columns need 4 words; got (2, 3)",
        ),
    ],
)
def test_bad_bits_are_named(
    call: Callable[[], Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
