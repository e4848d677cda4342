"""What processes tell each other inside an operation, by the name of their process group.

An operation that is given a `group` sees one block of rows of every sharded table, the same queries
as the others of the group, and leaves with what a single process would have found: only numbers per
query cross the network. The empty name is this process alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_groups: dict[str, dist.ProcessGroup] = {}


def register_group(group: dist.ProcessGroup) -> str:
    """The name by which operations are told of a group."""
    _groups[group.group_name] = group
    return group.group_name


class GroupError(RuntimeError):
    """Another process of the group has gone, or the network between them."""


@contextmanager
def reaching_others() -> Iterator[None]:
    """Around collectives, whose backends raise whatever they like when a process has gone."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise GroupError(f"another process of this run cannot be reached ({reason})") from None


def processes(group: str) -> tuple[int, int]:
    """(rank, size) of this process within the group."""
    if not group:
        return 0, 1
    found = _groups[group]
    return found.rank(), found.size()


def summed(x: Tensor, group: str) -> Tensor:
    """Replaces x by its sum over the group, the same bits everywhere; returns it."""
    return _reduced(x, group, dist.ReduceOp.SUM)


def largest(x: Tensor, group: str) -> Tensor:
    """Replaces x by its largest values over the group; returns it."""
    return _reduced(x, group, dist.ReduceOp.MAX)


def _reduced(x: Tensor, group: str, how: dist.ReduceOp.RedOpType) -> Tensor:
    if group:
        with reaching_others():
            dist.all_reduce(x, how, _groups[group])
    return x


def gathered(x: Tensor, group: str) -> Tensor:
    """x of every process in the order of their ranks, (size, ...): all have one shape."""
    out = x.new_empty((processes(group)[1], *x.shape))
    if not group:
        return out.copy_(x)
    with reaching_others():
        dist.all_gather(list(out.unbind()), x.contiguous(), _groups[group])
    return out


def anywhere(flag: bool, group: str, device: torch.device) -> bool:
    """Whether it holds in any process of the group."""
    return (
        flag
        if not group
        else bool(largest(torch.tensor([flag], dtype=torch.int32, device=device), group))
    )
