"""What a step works on: a batch and its rows, the tables that score it, losses and gradients."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypedDict

from torch import Tensor

from metasd import kernels
from metasd.distributed import LocalRows, RowIndex


class Batch(NamedTuple):
    """Triples; relations count inverses. Of several processes each reads the rows of some.

    `heads`, `relations` and `tails` lead to the rows of this process's (b,) triples; `targets`
    int64 (B,) are the tails of all triples of its replica, counted from the first entity of its
    block; `share` is what the replica has of the whole batch, and `first` the number of its first
    triple there. `key` is what chance depends on; `ends` are heads and tails of the whole batch.
    Where triples share queries, `query_of` int64 (B,) is the query of each triple of the replica,
    and `first_of` int64 (Q,) the first triple of each query. `threshold` is that of sampled
    gradients.
    """

    heads: RowIndex
    relations: LocalRows
    tails: RowIndex
    targets: Tensor
    share: float = 1.0
    first: int = 0
    key: int = 0
    ends: tuple[Tensor, ...] = ()
    query_of: Tensor | None = None
    first_of: Tensor | None = None
    threshold: float = 0.0


class Loss(Enum):
    """What is drawn anew for each loss of a step."""

    SOURCE, INNER, QUIZ, META, MUTUAL = range(5)


@dataclass
class Rows:
    """A batch's table rows, leaves of the autograd graph of the query encoder."""

    head: Tensor
    relation: Tensor
    tail: Tensor | None
    """None where only queries are asked for."""


@dataclass
class Gradients:
    """Gradients of both tables, fp32 like the tables."""

    entities: Tensor
    relations: Tensor


@dataclass
class ScoredTables:
    """What a model scores with: `mask * table` (kernels mask on the way), or whole tables.

    Gradients are masked where there are masks. `whole` says that masked and rounded weights are
    written out in the tables already.
    """

    entities: Tensor
    relations: Tensor
    masks: tuple[Tensor, Tensor] | None = None
    whole: bool = False


@dataclass
class Encoded:
    """A batch as a model sees it: its rows and the queries made of them, with their graph.

    `queries` (B, d), without a graph, are those of all shards; (Q, d) where triples share them.
    """

    tables: ScoredTables
    batch: Batch
    rows: Rows
    query: Tensor
    queries: Tensor


class Streaming(TypedDict):
    """How the operations stream scores, and with whom."""

    precision: str
    score_memory: int
    group: str
    sampling: kernels.Sampling
    multiplicity: Tensor | None
