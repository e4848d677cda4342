"""A compressed table on a GPU: the scores of the engine, computed by `metasd.kernels`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasd import kernels
from metasd.environment import scoring_device
from metasd.kernels._keys import decoded_keys

from .table import CODES, ZEROS, Floats, Integers, Table

_SCORES = 1 << 26
"""Scores held at a time: 256 MiB of fp32."""


@dataclass(frozen=True, eq=False)
class DeviceTable(Table):
    """A `Table` whose scores are computed on `device`, from the arrays as they are in the file."""

    device: str = "cuda"

    @staticmethod
    def of(table: Table, device: str) -> DeviceTable:
        """The table on `device`, cpu or a GPU; InputError if it is not there."""
        scoring_device(device)
        values: dict[str, Any] = {f.name: getattr(table, f.name) for f in fields(Table)}
        return DeviceTable(**values, device=device)

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        """The arrays, in types that torch computes with; one bit per column becomes its number."""
        arrays = dict(self.arrays)
        if self.codec == "column":
            del arrays["columns"]  # queries come without the others
        elif self.columns == "bits":
            bits = np.unpackbits(arrays["columns"], axis=1, count=self.width, bitorder="little")
            arrays["columns"] = np.nonzero(bits)[1].astype(np.int32)
        elif self.columns == "index16":
            arrays["columns"] = arrays["columns"].astype(np.int32)
        if "indptr" in arrays:
            arrays["indptr"] = arrays["indptr"].astype(np.int64)
        if self.weight_format == "bf16":
            arrays["values"] = arrays["values"].view(np.int16)
        tensors = {n: torch.from_numpy(a.copy()).to(self.device) for n, a in arrays.items()}
        if self.weight_format == "bf16":
            tensors["values"] = tensors["values"].view(torch.bfloat16)
        return tensors

    def _score(
        self,
        queries: Floats,
        first: int,
        count: int,
        rows: Integers | None,
        k: int,
        known: tuple[Integers, Integers] | None,
        temperature: float,
        scores: Floats,
        places: Integers | None,
        total: Floats | None,
        threads: int,
    ) -> int:
        asked = torch.from_numpy(queries).to(self.device)
        chosen = None if rows is None else torch.from_numpy(rows).to(self.device)
        best = torch.empty((len(queries), 0), dtype=torch.int64, device=self.device)
        mass = torch.full((len(queries),), -torch.inf, device=self.device)
        nan = torch.zeros((), dtype=torch.int64, device=self.device)
        for start, stop in self._blocks(len(queries), count):
            part = None if chosen is None else chosen[start:stop]
            z = asked.new_empty(len(queries), stop - start)
            self._block(asked, part, first if part is not None else first + start, z)
            if places is None or total is None:
                scores[:, start:stop] = z.cpu().numpy()
                continue
            nan += z.isnan().sum()
            mass = torch.logaddexp(mass, (z / temperature).logsumexp(1))
            if known is not None:
                z[_known_places(*known, start, stop, self.device)] = -torch.inf
            keys = torch.cat([best, _keys(z, start)], dim=1)
            best = keys.topk(min(k, keys.shape[1]), dim=1).values
        if places is not None and total is not None:
            found, place = decoded_keys(best)
            scores[:], places[:], total[:] = found.cpu(), place.cpu(), mass.cpu()
        return int(nan)

    def _blocks(self, queries: int, count: int) -> Iterator[tuple[int, int]]:
        step = max(_SCORES // max(queries, 1), 1024)
        for start in range(0, count if queries else 0, step):
            yield start, min(start + step, count)

    def _block(self, queries: Tensor, rows: Tensor | None, first: int, out: Tensor) -> None:
        arrays = self._tensors
        if self.codec == "sparse":
            kernels.sparse_scores(
                arrays["indptr"],
                arrays["columns"],
                arrays["values"],
                arrays.get("scale"),
                queries,
                rows,
                first,
                out,
            )
        elif self.weight_format in CODES:
            kernels.code_scores(
                arrays["values"],
                arrays["scale"],
                queries,
                CODES[self.weight_format],
                ZEROS[self.weight_format],
                rows,
                first,
                out,
            )
        else:
            values = arrays["values"]
            table = values[first:][: out.shape[1]] if rows is None else values[first + rows]
            torch.matmul(queries, table.float().T, out=out)


def _keys(scores: Tensor, start: int) -> Tensor:
    """int64 that order like the scores and, where equal, by the lower place: `decoded_keys`."""
    order = torch.where(scores == 0, 0.0, scores).view(torch.int32)  # -0 ties with 0
    order = order ^ ((order >> 31) & 0x7FFFFFFF)
    place = torch.arange(start, start + scores.shape[1], device=scores.device)
    return (order.long() << 32) | (0xFFFFFFFF - place)


def _known_places(
    indptr: Integers, indices: Integers, start: int, stop: int, device: str
) -> tuple[Tensor, Tensor]:
    query = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    here = (start <= indices) & (indices < stop)
    return (
        torch.from_numpy(query[here]).to(device),
        torch.from_numpy(indices[here] - start).to(device),
    )
