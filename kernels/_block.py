"""One process's block of an entity table: ids within it, and results over all blocks."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ._collectives import all_gather, all_reduce_max


@dataclass(frozen=True)
class Block:
    """Rows first .. first + rows - 1 of a table of `total` entities; without a group all of it."""

    first: int
    rows: int
    total: int
    group: str
    device: torch.device

    def held(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the targets, by id, lie in the block, and their rows there; int64 both."""
        at = ((targets >= self.first) & (targets < self.first + self.rows)).nonzero()[:, 0]
        return at, targets[at] - self.first

    def known(
        self, indptr: Tensor | None, indices: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The known answers that lie in the block, CSR of ids, as CSR of its rows."""
        if not self.group or indptr is None or indices is None:
            return indptr, indices
        inside = (indices >= self.first) & (indices < self.first + self.rows)
        return pad(inside.cumsum(0), (1, 0))[indptr], indices[inside] - self.first

    def agreed(self, height: int) -> int:
        """The least height of the group's: processes meet once for each block of query rows."""
        return -int(all_reduce_max(torch.tensor(-height, device=self.device), self.group))

    def best(self, scores: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best of all processes, by id, from up to k of each, best first; -inf and -1 beyond.

        Of equal scores the lower id comes first: blocks lie in the order of the ranks.
        """
        if not self.group:
            return scores, rows
        beyond = (0, k - scores.shape[1])
        ids = torch.where(rows < 0, -1, rows + self.first)
        scores, ids = (
            all_gather(pad(x, beyond, value=value), self.group).movedim(0, 1).flatten(1)
            for x, value in ((scores, -torch.inf), (ids, -1))
        )
        ranked, order = scores.sort(dim=1, descending=True, stable=True)
        return ranked[:, :k].contiguous(), ids.gather(1, order[:, :k])


def block_of(entities: Tensor, first: int, group: str) -> Block:
    """The block that this process holds.

    Raises:
        ValueError: in every process, if blocks do not follow each other in the order of the ranks.
    """
    rows = entities.shape[0]
    if not group:
        return Block(0, rows, rows, group, entities.device)
    found = all_gather(torch.tensor([first, rows], device=entities.device), group).cpu()
    ends = found[:, 1].cumsum(0)
    if not torch.equal(found[:, 0], ends - found[:, 1]):
        raise ValueError(
            "blocks of entities must follow each other in the order of the processes; "
            f"got (first, rows) {found.tolist()}"
        )
    return Block(first, rows, int(ends[-1]), group, entities.device)
