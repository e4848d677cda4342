"""DistMult (Yang et al., ICLR 2015): sum of h r t. Symmetric in head and tail."""

from .base import Rows, Scoring


class DistMult(Scoring):
    name = "distmult"

    def query(self, head: Rows, relation: Rows) -> Rows:
        return head * relation

    def relation_query(self, head: Rows, tail: Rows) -> Rows:
        return head * tail

    def head_query(self, relation: Rows, tail: Rows) -> Rows:
        return relation * tail
