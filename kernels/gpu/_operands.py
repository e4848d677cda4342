"""Operands of the products on a GPU in the product's format, and the library's products.

A bf16 product reads bf16 copies of the tables, made once an operation: the library's `G @ E` needs
them anyway, and a tile step of 128 x 128 for two models then takes 784 bytes a column through the
L2 cache (128 entities at 2 bytes, their mask bits, 2 x 128 queries) against 1040 from fp32 tables.
A copy costs 6 bytes a weight once and saves 2 a weight in each of 2 passes over B / 128 row blocks.
The copies are of whole tables: the mask is applied to the source's copy in registers.

fp32 and tf32 products read the tables where they lie.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from ._copy_rows import copy_rows

ALIGNMENT = 16
"""Elements: rows of copies and of score blocks start on 32 bytes or more, as the library's fastest
products and wide loads want."""

_TEMPORARY = 8 << 20
"""Elements of a product that waits to be masked or added: 32 MiB stay in the L2 cache of an
H100."""


def padded(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty (rows, columns) whose rows are aligned; `copy_rows(pad=True)` fills what is
    between."""
    stride = -(-columns // ALIGNMENT) * ALIGNMENT
    return torch.empty((rows, stride), dtype=dtype, device=device)[:, :columns]


def query_operand(q: Tensor, precision: str) -> Tensor:
    """fp32 queries (B, d) as the tiles take them: (parts, B, d), rows aligned.

    bf16: one part. tf32: one part, fp32 rounded to tf32. fp32: three bf16 parts whose sum is q.
    """
    parts = 3 if precision == "fp32" else 1
    dtype = torch.float32 if precision == "tf32" else torch.bfloat16
    rows, width = q.shape
    flat = padded(parts * rows, width, dtype, q.device)
    stride = flat.stride(0)  # said outright: a view of one row would be free to choose another
    out = flat.as_strided((parts, rows, width), (rows * stride, stride, 1))
    copy_rows(q, None, out if parts == 3 else out[0], tf32=precision == "tf32", pad=True)
    return out


def library_queries(q: Tensor, tiles: Tensor) -> Tensor:
    """The same queries as the library's products take them, (B, d)."""
    return q if len(tiles) == 3 else tiles[0]


def table_operand(x: Tensor, mask: Tensor | None, precision: str) -> Tensor:
    """mask * x in the format of the products: x itself where nothing has to change."""
    if precision != "bf16" and mask is None:
        return x
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return copy_rows(x, mask, padded(x.shape[0], x.shape[1], dtype, x.device), pad=True)


@functools.cache
def lanes(device: torch.device) -> Tensor:
    """0 .. 31, where the kernels find their shift counts (see `tiles`)."""
    return torch.arange(32, dtype=torch.int32, device=device)


@contextlib.contextmanager
def library_precision(precision: str) -> Iterator[None]:
    """fp32 products of the library in tf32, or in fp32 proper."""
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before


def add_product(out: Tensor, a: Tensor, b: Tensor, mask: Tensor | None, *, add: bool) -> None:
    """out = mask * (a @ b), or out += ..., in fp32 from fp32 or bf16 (m, k) and (k, n)."""
    if mask is None and not add:
        _multiply(a, b, out)
        return
    height = max(_TEMPORARY // max(out.shape[1], 1) // 128 * 128, 128)  # keeps a's columns aligned
    for start in range(0, out.shape[0], height):
        part = slice(start, start + height)
        product = torch.empty_like(out[part])
        _multiply(a[part], b, product)
        copy_rows(product, None if mask is None else mask[part], out[part], add=add)


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    if a.dtype == torch.float32:
        torch.mm(a, b, out=out)
    elif a.is_cuda:
        torch.ops.aten.mm.dtype_out(a, b, torch.float32, out=out)
    else:  # only a GPU's library has bf16 products with fp32 results
        torch.mm(a.float(), b.float(), out=out)
