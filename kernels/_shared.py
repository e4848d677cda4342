"""Losses of queries that have several targets each: one row of scores per query.

Target i belongs to query `query_of[i]`, weighs w_i, and the mean over the B targets of

    w_i (logsumexp(z[query_of[i]]) - z[query_of[i], targets[i]])

needs one softmax per query, which counts as much as all targets of the query, and one dot product
per target. Operations are given the first part as weights of their rows, without targets.
"""

import torch
from torch import Tensor

from ._checks import check_index, check_range
from ._collectives import all_reduce_sum, target_weights
from ._sampling import Sampling
from .apply_mask import apply_mask
from .masked_rows import masked_rows
from .scatter_rows import scatter_rows


class SharedQueries:
    """What Q queries are to their B targets.

    Attributes:
        no_targets: int64 (Q,), what an operation is given in place of targets.
        weight: (Q,), by which a query's softmax counts in a mean over queries.
        count: (Q,), by which anything else of a query counts there: the number of its targets.
    """

    def __init__(
        self,
        query_of: Tensor,
        targets: Tensor,
        queries: Tensor,
        entities: Tensor,
        weight: Tensor | None,
        group: str,
    ) -> None:
        check_index("query_of", query_of, targets.shape[0], like=queries)
        check_range("query_of", query_of, queries.shape[0])
        self._query_of, self._group = query_of, group
        weights = target_weights(targets, weight, entities.shape[0], group)
        if weights is None:
            weights = queries.new_ones(len(targets))
        here = (targets >= 0) & (targets < entities.shape[0])  # not in another process
        self._targets = torch.where(here, targets, 0)
        self._weights = torch.where(here, weights, 0.0) / max(len(targets), 1)
        self._ratio = len(queries) / max(len(targets), 1)
        self.weight, self.count = (
            queries.new_zeros(len(queries)).index_add_(0, query_of, x * self._ratio)
            for x in (weights, torch.ones_like(weights))
        )
        self.no_targets = targets.new_full((len(queries),), -1)

    def threshold(self, sampling: Sampling) -> float:
        """Of a mean over queries, for entries as large as those of a mean over targets."""
        return min(sampling.threshold * self._ratio, 1.0)

    def summed(self, grad_rows: Tensor) -> Tensor:
        """The gradients of queries, (Q, d), from those of `queries[query_of]`."""
        out = grad_rows.new_zeros(len(self.count), grad_rows.shape[1])
        return scatter_rows(grad_rows, None, self._query_of, out)

    def add_targets(
        self,
        queries: Tensor,
        table: Tensor,
        mask: Tensor | None,
        grad_queries: Tensor,
        grad_table: Tensor,
        grad_mask: Tensor | None,
    ) -> Tensor:
        """Adds the targets' own gradients to those of the softmax, and returns their loss.

        Args:
            table: scored as `mask * table`; `grad_mask` says which of its weights learn.
        """
        rows, taken = masked_rows(table, mask, self._targets), queries[self._query_of]
        loss = -((rows * taken).sum(1) @ self._weights)
        scatter_rows(rows * -self._weights[:, None], None, self._query_of, grad_queries)
        taken *= -self._weights[:, None]
        if grad_mask is not None:  # of the rows alone: the table is masked already
            taken = apply_mask(taken, grad_mask[self._targets])
        scatter_rows(taken, None, self._targets, grad_table)
        return all_reduce_sum(loss, self._group)
