"""RESCAL (Nickel et al., ICML 2011): h R t with a full matrix R for every relation."""

from .base import Rows, Scoring


class RESCAL(Scoring):
    name = "rescal"
    matrix_relations = True

    def query(self, head: Rows, relation: Rows) -> Rows:
        return (head[:, None] @ relation.reshape(-1, self.rank, self.rank))[:, 0]

    def relation_query(self, head: Rows, tail: Rows) -> Rows:
        return (head[:, :, None] * tail[:, None, :]).reshape(len(head), -1)

    def head_query(self, relation: Rows, tail: Rows) -> Rows:
        return (relation.reshape(-1, self.rank, self.rank) @ tail[:, :, None])[:, :, 0]
