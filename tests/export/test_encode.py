"""Encoding of tables: rounding that training has seen, the smallest columns, refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_cases import weights
from metasd.export.encode import encode
from metasd.kernels import quantize_rows


@given(
    rows=st.integers(1, 20),
    width=st.integers(1, 2000),
    density=st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 1000),
    weight_format=st.sampled_from(["fp32", "fp16", "bf16", "int8"]),
)
@settings(max_examples=150, deadline=None)
def test_sparse_round_trips_and_is_the_smallest_of_its_codes(
    rows: int, width: int, density: float, seed: int, weight_format: str
) -> None:
    dense = weights("sparse", density, rows, width, seed)
    table = encode(dense, "sparse", weight_format)
    got = table.dense()
    assert (
        np.array_equal(encode(got, "sparse", weight_format).dense(), got) or weight_format == "int8"
    )
    if weight_format == "fp32":
        assert np.array_equal(got, dense)
    size = table.arrays["values"].itemsize
    stored = np.count_nonzero(got)
    assert table.arrays["columns"].nbytes + table.arrays["values"].nbytes <= min(
        stored * (2 + size), rows * -(-width // 8) + stored * size
    )


@given(
    rows=st.integers(1, 10),
    width=st.integers(1, 200),
    seed=st.integers(0, 1000),
    levels=st.sampled_from(["int8", "int4", "int3", "int2", "ternary"]),
)
@settings(max_examples=60, deadline=None)
def test_a_table_holds_what_training_saw(rows: int, width: int, seed: int, levels: str) -> None:
    dense = weights("sparse", 1.0 if levels in ("int3", "int2") else 0.7, rows, width, seed)
    seen = quantize_rows(torch.from_numpy(dense), None, levels).numpy()
    assert np.allclose(encode(dense, levels).dense(), seen, rtol=3e-7, atol=0)
    assert np.allclose(encode(dense, "sparse", "int8", levels).dense(), seen, rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    ("weights", "codec", "weight_format", "message"),
    [
        (np.ones((3, 3)), "int8", "", "float32"),
        (np.full((3, 3), np.nan, np.float32), "int8", "", "NaN"),
        (np.full((3, 3), 1e5, np.float32), "sparse", "fp16", "too large for fp16"),
        (np.full((3, 3), 3.4e38, np.float32), "sparse", "bf16", "for bf16"),
        (np.ones((3, 3), np.float32), "zip", "", "unknown codec"),
        (np.ones((3, 3), np.float32), "sparse", "int4", "codec sparse stores weights as fp32"),
        (np.eye(3, dtype=np.float32), "int2", "", "int2 has no zero, which 67%"),
    ],
)
def test_weights_that_a_codec_cannot_hold_are_refused(
    weights: Any, codec: str, weight_format: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode(weights, codec, weight_format)
