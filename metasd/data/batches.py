"""Batches of triples in the order of an epoch, read from memory or from a mapped file."""

from mmap import mmap

import numpy as np
import torch
from torch import Tensor

from .graph import Graph
from .sorting import IntArray

Columns = tuple[Tensor, Tensor, Tensor]
"""Heads, relations (inverses included) and tails of some triples, each int64 (B,)."""


_STEPS = 64  # whose triples are fetched together


class Triples:
    """n triples and, as numbers n ... 2n - 1, their inverses.

    Their rows, int64 (n, 3), stay where they are, a mapped file perhaps, but on a GPU.
    """

    def __init__(self, rows: IntArray, num_relations: int, device: torch.device) -> None:
        self._rows, self._num_relations = rows, num_relations
        self._on_gpu = torch.from_numpy(rows.copy()).to(device) if device.type == "cuda" else None
        self.device = device

    def __len__(self) -> int:
        return 2 * len(self._rows)

    def queries(self) -> Tensor:
        """The head and relation of every triple as one number, int64 (2n,), on the CPU."""
        head, relation, tail = torch.from_numpy(self._rows).long().unbind(1)
        relations = 2 * self._num_relations
        inverse = tail * relations + relation + self._num_relations
        return torch.cat([head * relations + relation, inverse])

    def columns(self, numbers: Tensor) -> Columns:
        """The triples of these numbers, (B,) integers on the CPU."""
        count, numbers = len(self._rows), numbers.long()
        row, inverse = numbers % count, (numbers >= count).to(self.device)
        if self._on_gpu is None:
            rows = torch.from_numpy(self._rows[row.numpy()])
        else:
            rows = self._on_gpu[row.to(self.device)]
        head, relation, tail = rows.unbind(1)
        return (
            torch.where(inverse, tail, head),
            relation + self._num_relations * inverse,
            torch.where(inverse, head, tail),
        )


class Order:
    """The numbers below `count` in a random order, then in another one, and so on without end.

    Orders are made when they are reached: slices of them are asked for from the front to the back.
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self._count, self._generator = count, generator
        self._dtype = torch.int32 if count < 1 << 31 else torch.int64
        self._first, self._numbers = 0, torch.empty(0, dtype=self._dtype)

    def __getitem__(self, at: slice) -> Tensor:
        start = at.start or 0
        while self._first + len(self._numbers) < at.stop:
            made = _outside_the_heap(self._count, self._dtype)
            torch.randperm(self._count, generator=self._generator, out=made)
            done = min(max(start - self._first, 0), len(self._numbers))
            self._first += done
            left = self._numbers[done:]
            self._numbers = torch.cat([left, made]) if len(left) else made
        return self._numbers[start - self._first : at.stop - self._first]


class QueryOrder:
    """The numbers of triples in a random order in which those of one query follow each other.

    A query's triples are taken in random order, at most `together` at a time: then others follow.

    Args:
        queries: the query of each triple, int64 (n,).
    """

    def __init__(self, queries: Tensor, together: int, generator: torch.Generator) -> None:
        count = len(queries)
        mixed = torch.randperm(count, generator=generator)
        sorted_queries, by_query = queries[mixed].sort(stable=True)
        places = torch.arange(count)
        starts = torch.ones(count, dtype=torch.bool)
        starts[1:] = sorted_queries[1:] != sorted_queries[:-1]
        first = torch.where(starts, places, 0).cummax(0).values
        starts |= (places - first) % together == 0
        chunk = starts.cumsum(0) - 1
        chunks = torch.randperm(int(chunk[-1]) + 1, generator=generator)
        self._numbers = mixed[by_query[chunks[chunk].argsort(stable=True)]]

    def __getitem__(self, at: slice) -> Tensor:
        return self._numbers[at]


def _outside_the_heap(count: int, dtype: torch.dtype) -> Tensor:
    """Memory of its own: in the heap it would take the place of one of a step's tables, which are
    freed and allocated over and over, and make the heap a table larger.
    """
    return torch.frombuffer(mmap(-1, max(count * dtype.itemsize, 1)), dtype=dtype, count=count)


class Epoch:
    """The batches of an epoch: `length` triples by number, in an order that may hold some twice."""

    def __init__(
        self, triples: Triples, order: Order | QueryOrder, length: int, batch_size: int
    ) -> None:
        self._triples, self._order, self._length = triples, order, length
        self._size, self._first, self._columns = batch_size, -1, triples.columns(torch.empty(0))

    def columns(self, step: int) -> Columns:
        """The triples of a step, counted from 0."""
        first = step // _STEPS * _STEPS
        if first != self._first:
            at = slice(first * self._size, min((first + _STEPS) * self._size, self._length))
            self._first, self._columns = first, self._triples.columns(self._order[at])
        start = (step - first) * self._size
        heads, relations, tails = (x[start : start + self._size] for x in self._columns)
        return heads, relations, tails


def split_quiz(
    graph: Graph, fraction: float, seed: int, device: torch.device, *, held_out: bool
) -> tuple[Triples, Triples]:
    """Train triples, and the quiz: a seeded share of them, its rows sorted.

    Args:
        held_out: leave the quiz out of the train triples.
    """
    size = min(max(1, round(fraction * len(graph.train))), len(graph.train) - held_out)
    generator = torch.Generator().manual_seed(seed << 24)
    order = Order(len(graph.train), generator)[: len(graph.train)]
    quiz, kept = graph.train[order[:size].sort().values.numpy()], graph.train
    if held_out:
        kept = graph.train[order[size:].sort().values.numpy()]
    return (
        Triples(kept, graph.num_relations, device),
        Triples(quiz, graph.num_relations, device),
    )


def entity_weights(graph: Graph) -> Tensor:
    """Weights of the entities as answers, fp32 (N,): 0.1 + 0.9 * count / largest count in train.

    Scaled so that their mean over the answers of train is 1, as published code (and PyTorch's
    weighted mean) has it: else `regularizer.weight` would count several times as much.
    """
    counts = torch.from_numpy(graph.entity_counts.astype(np.float64))
    weights = 0.1 + 0.9 * counts / counts.max()
    return (weights * counts.sum() / (weights @ counts)).float()
