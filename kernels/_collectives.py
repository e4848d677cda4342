"""Collectives inside operations, by the name of a process group.

An operation that is given a `group` sees one block of rows of every sharded table and the same
queries in every process, and returns what a single process would: only numbers per query cross the
network. The empty name is this process alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from ._checks import check_range

_groups: dict[str, dist.ProcessGroup] = {}


def register_group(group: dist.ProcessGroup) -> str:
    """The name that operations take for a group (`group=`)."""
    _groups[group.group_name] = group
    return group.group_name


class CollectiveError(RuntimeError):
    """A collective failed: another process of the group has ended, or the network between them."""


@contextmanager
def collective_errors() -> Iterator[None]:
    """Turns what backends raise when a process has ended into CollectiveError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CollectiveError(f"another process of this run cannot be reached ({reason})") from None


def processes(group: str) -> tuple[int, int]:
    """(rank, size) of this process within the group."""
    if not group:
        return 0, 1
    found = _groups[group]
    return found.rank(), found.size()


def all_reduce_sum(x: Tensor, group: str) -> Tensor:
    """Replaces x by its sum over the group, the same bits everywhere; returns it."""
    return _reduced(x, group, dist.ReduceOp.SUM)


def all_reduce_max(x: Tensor, group: str) -> Tensor:
    """Replaces x by its maxima over the group; returns it."""
    return _reduced(x, group, dist.ReduceOp.MAX)


def _reduced(x: Tensor, group: str, how: dist.ReduceOp.RedOpType) -> Tensor:
    if group:
        with collective_errors():
            dist.all_reduce(x, how, _groups[group])
    return x


def all_gather(x: Tensor, group: str) -> Tensor:
    """x of every process in the order of their ranks, (size, ...): all have one shape."""
    out = x.new_empty((processes(group)[1], *x.shape))
    if not group:
        return out.copy_(x)
    with collective_errors():
        dist.all_gather(list(out.unbind()), x.contiguous(), _groups[group])
    return out


def any_process(flag: bool, group: str, device: torch.device) -> bool:
    """Whether it holds in any process of the group."""
    return bool(all_reduce_max(torch.tensor(int(flag), device=device), group)) if group else flag


Sums = Sequence[tuple[int, float] | None]
"""Of every sum among a row's statistics: the maximum z and the inverse temperature of the
exponentials exp((z_i - z) / tau) that it adds up; None where it adds other numbers."""


def combined(statistics: Tensor, sums: Sums, group: str) -> None:
    """Makes statistics (k, B) of a block of entities, maxima before `sums`, those of all blocks."""
    maxima = len(statistics) - len(sums)
    top = all_reduce_max(statistics[:maxima].clone(memory_format=torch.contiguous_format), group)
    total = all_reduce_sum(rescaled(statistics, top, sums), group)
    statistics[:maxima], statistics[maxima:] = top, total


def rescaled(statistics: Tensor, top: Tensor, sums: Sums) -> Tensor:
    """The sums of statistics (k, ...) as if `top` had been their maxima."""
    factor = {by: ((statistics[by[0]] - top[by[0]]) * by[1]).exp() for by in sums if by}
    rest = statistics[len(statistics) - len(sums) :]
    return torch.stack(
        [x if by is None else x * factor[by] for x, by in zip(rest, sums, strict=True)]
    )


def merged(partial: Tensor, sums: Sums, group: str) -> Tensor:
    """Statistics (k, tiles, B) as if every process of the group were a tile: (k, processes, B)."""
    top = partial[: len(partial) - len(sums)].amax(1)
    mine = torch.cat([top, rescaled(partial, top[:, None], sums).sum(1)])
    return all_gather(mine, group).transpose(0, 1).contiguous()


def target_weights(targets: Tensor, weight: Tensor | None, rows: int, group: str) -> Tensor | None:
    """`weight[targets]` (B,), where every target lies in the block of one process of the group.

    Raises:
        ValueError: in every process, if a target lies in no block.
    """
    if not group:
        check_range("targets", targets, rows)
        return None if weight is None else weight[targets]
    here = (targets >= 0) & (targets < rows)
    shares = [here.float()]
    if weight is not None:
        shares.append(torch.where(here, weight[targets.clamp(0, rows - 1)], 0.0))
    owners, *weights = all_reduce_sum(torch.stack(shares), group)
    if bool((owners != 1).any()):
        raise ValueError("every target must lie in the block of one process of the group")
    return weights[0] if weights else None


def refuse_group(group: str, dtype: torch.dtype) -> None:
    if group:
        raise TypeError(f"within a group of processes tables must be float32; got {dtype}")
