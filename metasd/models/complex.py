"""ComplEx (Trouillon et al., ICML 2016): Re(sum of h r conj(t)) over complex coordinates."""

import numpy as np

from .base import Rows, Scoring


class ComplEx(Scoring):
    name = "complex"
    parts = 2

    def query(self, head: Rows, relation: Rows) -> Rows:
        return _product(head, relation)

    def relation_query(self, head: Rows, tail: Rows) -> Rows:
        return _product(head, tail, conjugate=True)

    def head_query(self, relation: Rows, tail: Rows) -> Rows:
        return _product(relation, tail, conjugate=True)


def _product(x: Rows, y: Rows, conjugate: bool = False) -> Rows:
    """`x * y`, or `conj(x) * y`, of rows [real | imaginary]."""
    if isinstance(x, np.ndarray):
        (a, b), (c, d) = np.split(x, 2, axis=1), np.split(y, 2, axis=1)
        if conjugate:
            b = -b
        return np.concatenate([a * c - b * d, a * d + b * c], axis=1)
    from metasd import kernels  # compressed models answer without torch

    return kernels.complex_product(x, y, conjugate)
