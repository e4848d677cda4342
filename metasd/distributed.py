"""A run over several processes: entity shards x replicas, on torch.distributed (gloo or NCCL).

Every shard owns a block of entities: rows of the table, of its masks, of its optimisers' states.
Relations are the same everywhere. The shards of a replica train one batch together:

    rows       each takes a part of the batch, whose head and tail rows their owners send it
    queries    made of these rows, then shown to all shards
    scores     each streams its own entities; row statistics are summed inside the operations
    gradients  of the queries are summed back to who made them, those of the rows to their owners

so that a step's traffic is O(B d), whatever the number of entities. Replicas split the batch before
that and add up the gradients of their tables. `SINGLE_PROCESS`, a single process, does none of it.
"""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from metasd import kernels
from metasd.errors import InputError
from metasd.kernels import collective_errors

_TIMEOUT = timedelta(minutes=10)  # for a process that lives but does not answer


class RowIndex(Protocol):
    """Where the table rows of this process's triples lie, and how to reach them."""

    def gather(self, table: Tensor, mask: Tensor | None) -> Tensor:
        """`(mask * table)[index]`, one row for each triple."""

    def scatter(self, grad: Tensor, mask: Tensor | None, out: Tensor) -> None:
        """`out[index] += mask[index] * grad`; grad is overwritten."""

    def renumbered(self, places: Callable[[Tensor], Tensor]) -> "RowIndex":
        """The same in a table that has this process's rows at other places."""


@dataclass
class LocalRows:
    """Rows of a table that this process has whole: int64 (B,)."""

    index: Tensor

    def gather(self, table: Tensor, mask: Tensor | None) -> Tensor:
        return kernels.masked_rows(table, mask, self.index)

    def scatter(self, grad: Tensor, mask: Tensor | None, out: Tensor) -> None:
        if mask is not None:
            kernels.apply_mask(grad, mask[self.index], grad)
        kernels.scatter_rows(grad, None, self.index, out)

    def renumbered(self, places: Callable[[Tensor], Tensor]) -> "LocalRows":
        return LocalRows(places(self.index))


@dataclass
class RemoteRows:
    """Rows that other shards have, too: which of ours they are sent, and what comes from each.

    `sent` int64: rows of our block, by receiver; `order` int64 (b,): the places of the rows that
    come, by sender.
    """

    sent: LocalRows
    sending: list[int]
    order: Tensor
    coming: list[int]
    group: dist.ProcessGroup

    def gather(self, table: Tensor, mask: Tensor | None) -> Tensor:
        rows = self.sent.gather(table, mask)
        out = rows.new_empty((len(self.order), table.shape[1]))
        out[self.order] = _exchanged(rows, self.sending, self.coming, self.group)
        return out

    def scatter(self, grad: Tensor, mask: Tensor | None, out: Tensor) -> None:
        rows = _exchanged(grad[self.order], self.coming, self.sending, self.group)
        self.sent.scatter(rows, mask, out)

    def renumbered(self, places: Callable[[Tensor], Tensor]) -> "RemoteRows":
        return replace(self, sent=self.sent.renumbered(places))


def _exchanged(
    rows: Tensor, sending: list[int], coming: list[int], group: dist.ProcessGroup
) -> Tensor:
    out = rows.new_empty((sum(coming), *rows.shape[1:]))
    with collective_errors():
        dist.all_to_all_single(out, rows, coming, sending, group)
    return out


class ProcessGrid:
    """A single process, and what it would have to do were there more: the interface of a run.

    `group` is the name by which operations know the processes that have the other entities.
    """

    shards = replicas = 1
    shard = replica = 0
    group = ""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.shard == self.replica == 0

    def block(self, entities: int, shard: int | None = None) -> slice:
        """The entities of a shard, of this process's by default."""
        return _part(entities, self.shard if shard is None else shard, self.shards)

    def rows(self, entities: int, roles: int, shard: int | None = None) -> list[range]:
        """The rows of a shard's block in a table of `roles` rows an entity, in its order."""
        block = self.block(entities, shard)
        starts = [role * entities for role in range(roles)]
        return [range(start + block.start, start + block.stop) for start in starts]

    def replica_slice(self, triples: Tensor) -> Tensor:
        """This replica's share of a batch (B, ...)."""
        return triples[_part(len(triples), self.replica, self.replicas)]

    def replica_start(self, count: int) -> int:
        """The number of this replica's first triple in a batch of so many."""
        return count * self.replica // self.replicas

    def shard_slice(self, batch: Tensor) -> Tensor:
        """The part of a replica's batch (B, ...) that this shard makes queries of."""
        return batch[_part(len(batch), self.shard, self.shards)]

    def row_index(self, entities: Tensor, count: int, offset: int = 0) -> RowIndex:
        """The way to the rows of `mine(entities)`, ids among `count`; int64 (B,).

        offset: the row of the block's first entity in the table.
        """
        return LocalRows(entities + offset if offset else entities)

    def all_gather(self, queries: Tensor, count: int) -> Tensor:
        """The queries of all parts, (count, d), from those of this one."""
        return queries

    def reduce_scatter(self, grad: Tensor) -> Tensor:
        """This part's rows of a gradient (B, d), summed over the shards."""
        return grad

    def sum_gradients(self, entities: Tensor, relations: Tensor, share: float) -> None:
        """Adds up, in place, what the processes found: `share` of it belongs to this replica."""

    def sum_losses(self, losses: dict[str, Tensor], shares: list[float]) -> dict[str, Tensor]:
        """Sums over all processes, each of what a replica has by its share in that loss."""
        return losses

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """Replaces x by its sum over the shards of a replica; returns it."""
        return x

    def all_reduce_sum_replicas(self, x: Tensor) -> Tensor:
        """Replaces x by its sum over the replicas; returns it."""
        return x

    def all_reduce_max(self, value: int) -> int:
        """The largest value of all processes."""
        return value

    def check_same(self, what: str, value: str) -> None:
        """InputError, in every process, if another one was given another value."""
        number = zlib.crc32(value.encode())
        if (self.all_reduce_max(number), -self.all_reduce_max(-number)) != (number, number):
            raise InputError(f"every process must be given the same {what}; they differ")

    def barrier(self) -> None:
        """Until every process is here."""


SINGLE_PROCESS = ProcessGrid()


class TorchProcessGrid(ProcessGrid):
    """One of `shards` x `replicas` processes."""

    def __init__(self, shards: int, replicas: int) -> None:
        self.shards, self.replicas = shards, replicas
        device = "cuda" if torch.cuda.is_available() else "cpu"
        mesh = init_device_mesh(device, (replicas, shards), mesh_dim_names=("replica", "shard"))
        self.replica, self.shard = mesh.get_local_rank("replica"), mesh.get_local_rank("shard")
        self._shards = mesh.get_group("shard")
        self.group = kernels.register_group(self._shards)
        self._replicas = kernels.register_group(mesh.get_group("replica"))
        assert dist.group.WORLD is not None
        self._all = kernels.register_group(dist.group.WORLD)

    def row_index(self, entities: Tensor, count: int, offset: int = 0) -> RowIndex:
        block = self.block(count)
        sent, sending = [], []
        for shard in range(self.shards):  # every shard knows the whole batch: nobody has to ask
            part = entities[_part(len(entities), shard, self.shards)]
            part = part[(part >= block.start) & (part < block.stop)]
            sent.append(part - (block.start - offset))
            sending.append(len(part))
        ends = torch.tensor([_part(count, i, self.shards).stop for i in range(self.shards)])
        owner = torch.searchsorted(ends.to(entities.device), self.shard_slice(entities), right=True)
        coming = owner.bincount(minlength=self.shards).tolist()
        order = owner.argsort(stable=True)
        return RemoteRows(LocalRows(torch.cat(sent)), sending, order, coming, self._shards)

    def all_gather(self, queries: Tensor, count: int) -> Tensor:
        sizes = self._sizes(count)
        sending = [len(queries)] * self.shards
        return _exchanged(queries.repeat(self.shards, 1), sending, sizes, self._shards)

    def reduce_scatter(self, grad: Tensor) -> Tensor:
        sizes = self._sizes(len(grad))
        coming = [sizes[self.shard]] * self.shards
        parts = _exchanged(grad, sizes, coming, self._shards)
        return parts.view(self.shards, coming[0], grad.shape[1]).sum(0)

    def _sizes(self, count: int) -> list[int]:
        parts = [_part(count, shard, self.shards) for shard in range(self.shards)]
        return [part.stop - part.start for part in parts]

    def sum_gradients(self, entities: Tensor, relations: Tensor, share: float) -> None:
        self.all_reduce_sum(relations)
        if self.replicas > 1:
            for gradient in (entities, relations):
                self.all_reduce_sum_replicas(gradient.mul_(share))

    def sum_losses(self, losses: dict[str, Tensor], shares: list[float]) -> dict[str, Tensor]:
        found = torch.stack([x * share for x, share in zip(losses.values(), shares, strict=True)])
        return dict(zip(losses, kernels.all_reduce_sum(found, self._all), strict=True))

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        return kernels.all_reduce_sum(x, self.group)

    def all_reduce_sum_replicas(self, x: Tensor) -> Tensor:
        return kernels.all_reduce_sum(x, self._replicas)

    def all_reduce_max(self, value: int) -> int:
        return int(kernels.all_reduce_max(torch.tensor(value), self._all))

    def barrier(self) -> None:
        with collective_errors():
            dist.barrier()


def _part(count: int, i: int, parts: int) -> slice:
    return slice(count * i // parts, count * (i + 1) // parts)


def start(replicas: int = 1, shards: int | None = None) -> ProcessGrid:
    """This process's place among those that `torchrun` has started; SINGLE_PROCESS without it.

    Args:
        replicas: copies of the tables that share a batch.
        shards: blocks that each copy is cut into; as many as the processes allow by default.

    Raises:
        InputError: there are not `shards * replicas` processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if shards is None:
        shards = max(processes // max(replicas, 1), 1)
    if min(shards, replicas) < 1:
        raise InputError(f"shards and replicas must be at least 1; got {shards} and {replicas}")
    if shards * replicas != processes:
        raise InputError(
            f"{shards} shards x {replicas} replicas need {shards * replicas} processes; there "
            f"{'is' if processes == 1 else 'are'} {processes} "
            f"(torchrun --nproc-per-node {shards * replicas} -m metasd ...)"
        )
    if processes == 1:
        return SINGLE_PROCESS
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with collective_errors():
            dist.init_process_group(backend, timeout=_TIMEOUT)
    return TorchProcessGrid(shards, replicas)


def stop() -> None:
    """Leaves the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()
