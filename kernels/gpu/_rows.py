"""Which rows of a compressed table are scored."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def row_of(rows, first, place, inside):
    if rows is None:
        return first + place.to(tl.int64)
    else:
        return first + tl.load(rows + place, inside, 0)
