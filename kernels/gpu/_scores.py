"""Score matrices as the tile kernels take them, and their launch."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._launch import GROUP, Tile, cdiv, launch, tile
from ._operands import ALIGNMENT, lanes
from ._tiles import target_score_kernel


@dataclass
class Scores:
    """One to three score matrices (B, N) whose tiles are made together (see `_tiles.score_tiles`).

    Tables are (N, d) from `table_operand`, queries (parts, B, d) from `query_operand`.
    """

    precision: str
    pruned: Tensor | None
    q_pruned: Tensor
    mask: Tensor | None = None
    source: Tensor | None = None
    q_source: Tensor | None = None
    direction: Tensor | None = None
    q_tangent: Tensor | None = None

    @property
    def models(self) -> int:
        return 1 + (self.q_source is not None) + (self.q_tangent is not None)

    @property
    def table(self) -> Tensor:
        found = self.source if self.pruned is None else self.pruned
        assert found is not None
        return found

    @property
    def rows(self) -> int:
        return self.q_pruned.shape[1]

    @property
    def entities(self) -> int:
        return self.table.shape[0]

    @property
    def device(self) -> torch.device:
        return self.table.device

    @property
    def tile(self) -> Tile:
        return tile(self.models, self.precision, self.table.shape[1], self.device)

    def part(self, rows: slice, entities: slice) -> "Scores":
        """The same matrices' block of these rows and entities."""

        def queries(q: Tensor | None) -> Tensor | None:
            return None if q is None else q[:, rows]

        def table(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[entities]

        return Scores(
            self.precision,
            table(self.pruned),
            self.q_pruned[:, rows],
            table(self.mask),
            table(self.source),
            queries(self.q_source),
            table(self.direction),
            queries(self.q_tangent),
        )

    def of_targets(self, targets: Tensor) -> Tensor:
        """Scores of every row's target, from int64 (B,): (models, B), the pruned model's first.

        They have the bits of the same scores anywhere else: a score's sum over the width is taken
        in the same order wherever the tile lies that makes it.
        """
        out = torch.empty((min(self.models, 2), self.rows), device=self.device)
        self.launch(target_score_kernel, targets, out, programs=cdiv(self.rows, self.tile.b))
        return out

    def launch(
        self, kernel: Any, *arguments: Any, programs: int | None = None, **constants: Any
    ) -> None:
        """Launches a tile kernel: one program for each tile of `self.tile`, or as many as said.

        The kernel takes (operands, *arguments, sizes, constants): see `_tiles.score_tiles`.
        """
        t = self.tile
        pointers = (
            self.source,
            self.pruned,
            self.direction,
            self.mask,
            self.q_source,
            self.q_pruned,
            self.q_tangent,
            lanes(self.device),
        )
        part = self.q_pruned.stride(0) if len(self.q_pruned) == 3 else 0
        width, stride = self.table.shape[1], self.table.stride(0)
        if self.table.dtype == torch.bfloat16:  # a copy, whose rows continue in zeros
            width, alignment = stride, 16
        else:  # four fp32 are 16 bytes, the widest load
            alignment = math.gcd(width, stride, 4)
        launch(
            kernel,
            (cdiv(self.entities, t.n) * cdiv(self.rows, t.b) if programs is None else programs,),
            pointers,
            *arguments,
            self.entities,
            self.rows,
            width // alignment,
            stride // alignment,
            self.q_pruned.stride(1) // ALIGNMENT,
            part // ALIGNMENT,
            MODELS=self.models,
            PRECISION=self.precision,
            ALIGNMENT=alignment,
            GROUP=GROUP,
            BLOCK_N=t.n,
            BLOCK_B=t.b,
            BLOCK_K=t.k,
            warps=t.warps,
            stages=t.stages,
            **constants,
        )
