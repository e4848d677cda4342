"""Inputs, definitions and switches that the tests of metasd.kernels share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metasd import _C, kernels
from metasd.kernels import _stream

SHAPES = [(1, 2, 1), (1, 37, 5), (3, 1031, 33), (17, 250, 64), (64, 1024, 32), (67, 2003, 97)]
"""(rows, entities, width): one, odd, prime, powers of two, a row short of or past a vector."""

MASKS = ["none", "ones", "zeros", "random"]
ISAS = [
    name for name in ("amx", "avx512bf16", "avx512", "avx2", "portable") if _C.isa_supported(name)
]
"""What this processor has, the widest first: by default the one in use."""

STREAMING = next(name for name in ISAS if name != "amx")
"""The widest in which losses in bf16 pass through blocks of scores."""


def few(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Values of one parameter: `fast` ones as they are, the others marked slow."""
    return [x if x in fast else pytest.param(x, marks=pytest.mark.slow) for x in values]


def table(
    rows: int, columns: int, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale).to(dtype)


def whole_numbers(rows: int, columns: int, seed: int = 0, largest: int = 2) -> Tensor:
    """Small whole numbers in fp32: products are exact in every precision, and tie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, (rows, columns), generator=generator).float()


def kept(kind: str, rows: int, columns: int, seed: int = 7) -> Tensor | None:
    """Which weights a mask of this kind keeps: bool (rows, columns), None for no mask."""
    if kind == "random":
        return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.3
    constant = {"none": None, "ones": True, "zeros": False}[kind]
    return None if constant is None else torch.full((rows, columns), constant)


def packed(kind: str, rows: int, columns: int) -> Tensor | None:
    keep = kept(kind, rows, columns)
    return None if keep is None else kernels.pack_mask(keep)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else torch.where(kernels.unpack_mask(mask, x.shape[1]), x, 0.0)


@dataclass
class Case:
    """What the closed-form losses take; `dq_pruned` and `dentities` are for the meta gradient."""

    q_source: Tensor
    q_pruned: Tensor
    dq_pruned: Tensor
    entities: Tensor
    dentities: Tensor
    mask: Tensor | None
    targets: Tensor
    weight: Tensor | None = None
    pruned: Tensor | None = None
    temperature: float = 3.0
    forward_weight: float = 3.0
    backward_weight: float = 1.0
    inner_lr: float = 0.1

    def to(self, dtype: torch.dtype) -> "Case":
        floats = {
            name: value.to(dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return replace(self, **floats)

    @property
    def scored(self) -> Tensor:
        """The table that the pruned model scores."""
        return masked(self.entities, self.mask) if self.pruned is None else self.pruned

    @property
    def exchange(self) -> tuple[float, float, float]:
        return self.temperature, self.forward_weight, self.backward_weight


def case(
    rows: int,
    entities: int,
    width: int,
    *,
    mask: str = "random",
    scale: float = 1.0,
    weighted: bool = False,
    quantised: bool = False,
    seed: int = 0,
    **settings: float,
) -> Case:
    """A random case in fp32; `scale` is about the standard deviation of the scores."""
    generator = torch.Generator().manual_seed(seed)
    first = 10 * seed
    spread = scale / width**0.5
    e = table(entities, width, first + 1)
    return Case(
        table(rows, width, first + 2, spread),
        table(rows, width, first + 3, spread),
        table(rows, width, first + 4, spread),
        e,
        table(entities, width, first + 5),
        packed(mask, entities, width),
        torch.randint(entities, (rows,), generator=generator),
        torch.rand(entities, generator=generator) + 0.1 if weighted else None,
        masked(e, packed(mask, entities, width)).mul(8).round().div(8) if quantised else None,
        **settings,
    )


def cross_entropy(z: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    losses = functional.cross_entropy(z, targets, reduction="none")
    return (losses if weight is None else losses * weight[targets]).sum() / len(targets)


def exchange(
    z_a: Tensor, z_b: Tensor, temperature: float, forward: float, backward: float
) -> Tensor:
    """K(a, b) = forward * KL(a || b) + backward * KL(b || a), mean over rows."""
    log_a, log_b = (z_a / temperature).log_softmax(1), (z_b / temperature).log_softmax(1)
    kl = partial(functional.kl_div, reduction="batchmean", log_target=True)  # KL(target || input)
    return forward * kl(log_b, log_a) + backward * kl(log_a, log_b)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def cross_entropy_by_autograd(c: Case) -> tuple[Tensor, ...]:
    """(loss, gradient of the pruned queries, gradient of entities)."""
    q, e = leaf(c.q_pruned), leaf(c.scored)
    loss = cross_entropy(q @ e.T, c.targets, c.weight)
    dq, de = torch.autograd.grad(loss, (q, e))
    return loss.detach(), dq, masked(de, c.mask)


def inner_by_autograd(c: Case) -> tuple[Tensor, ...]:
    """What inner_distillation returns, from the definition of its loss."""
    q, p = leaf(c.q_pruned), leaf(c.scored)
    z = q @ p.T
    loss = cross_entropy(z, c.targets, c.weight)
    loss = loss + exchange(c.q_source @ c.entities.T, z, *c.exchange)
    dq, dp = torch.autograd.grad(loss, (q, p))
    return loss.detach(), dq, masked(dp, c.mask)


def mutual_by_autograd(c: Case) -> tuple[Tensor, ...]:
    """What mutual_distillation returns, from the definition of its losses."""
    q_s, e, q_p, p = leaf(c.q_source), leaf(c.entities), leaf(c.q_pruned), leaf(c.scored)
    z_s, z_p = q_s @ e.T, q_p @ p.T
    loss_s = cross_entropy(z_s, c.targets, c.weight) + exchange(z_s, z_p.detach(), *c.exchange)
    loss_p = cross_entropy(z_p, c.targets, c.weight) + exchange(z_p, z_s.detach(), *c.exchange)
    dq_s, de, dq_p, dp = torch.autograd.grad(loss_s + loss_p, (q_s, e, q_p, p))
    return loss_s.detach(), loss_p.detach(), dq_s, dq_p, de + masked(dp, c.mask)


def meta_by_autograd(c: Case) -> tuple[Tensor, ...]:
    """What meta_gradient returns, by a double backward through the whole inner loss.

    g is that loss's gradient at the pruned model; v = (dq_pruned, mask * dentities) is given. The
    source moves the temporary pruned model by -inner_lr * g, so the quiz loss by
    -inner_lr * <v, g>.
    """
    q_s, e, q_p, p = leaf(c.q_source), leaf(c.entities), leaf(c.q_pruned), leaf(c.scored)
    z_p = q_p @ p.T
    loss = cross_entropy(z_p, c.targets, c.weight) + exchange(q_s @ e.T, z_p, *c.exchange)
    g_q, g_p = torch.autograd.grad(loss, (q_p, p), create_graph=True)
    along_v = (c.dq_pruned * g_q).sum() + (masked(c.dentities, c.mask) * g_p).sum()
    return torch.autograd.grad(-c.inner_lr * along_v, (q_s, e))


def cross_entropy_of(c: Case, **options: Any) -> tuple[Tensor, ...]:
    return kernels.entity_cross_entropy_gradients(
        c.q_pruned, c.entities, c.targets, c.mask, c.weight, pruned=c.pruned, **options
    )


def inner_of(c: Case, **options: Any) -> tuple[Tensor, ...]:
    return kernels.inner_distillation(
        c.q_source,
        c.q_pruned,
        c.entities,
        c.mask,
        c.targets,
        *c.exchange,
        c.weight,
        pruned=c.pruned,
        **options,
    )


def mutual_of(c: Case, **options: Any) -> tuple[Tensor, ...]:
    return kernels.mutual_distillation(
        c.q_source,
        c.q_pruned,
        c.entities,
        c.mask,
        c.targets,
        *c.exchange,
        c.weight,
        pruned=c.pruned,
        **options,
    )


def meta_of(c: Case, **options: Any) -> tuple[Tensor, ...]:
    return kernels.meta_gradient(
        c.q_source,
        c.q_pruned,
        c.dq_pruned,
        c.entities,
        c.dentities,
        c.mask,
        *c.exchange,
        c.inner_lr,
        pruned=c.pruned,
        **options,
    )


Operation = Callable[..., tuple[Tensor, ...]]
LOSSES: dict[str, tuple[Operation, Operation]] = {
    "cross_entropy": (cross_entropy_of, cross_entropy_by_autograd),
    "inner": (inner_of, inner_by_autograd),
    "mutual": (mutual_of, mutual_by_autograd),
    "meta": (meta_of, meta_by_autograd),
}
"""Every operation in closed form, and its definition differentiated by autograd."""


def error(x: Tensor, exact: Tensor) -> float:
    return float((x.detach().double() - exact.detach().double()).norm())


def assert_close(
    got: Sequence[Tensor], wanted: Sequence[Tensor], relative: float, absolute: float = 1e-14
) -> None:
    """Every tensor within `relative` of the wanted one's norm."""
    assert len(got) == len(wanted)
    for i, (x, y) in enumerate(zip(got, wanted, strict=True)):
        assert x.shape == y.shape
        bound = relative * float(y.detach().double().norm()) + absolute
        assert error(x, y) <= bound, f"result {i}: error {error(x, y):.3g} above {bound:.3g}"


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_is_definition(name: str, c: Case) -> None:
    """In fp64 the operation is its definition, differentiated by autograd."""
    ours, definition = LOSSES[name]
    c = c.to(torch.float64)
    with threads(1):  # the inputs are small: other threads would only wait for each other
        assert_close(ours(c), definition(c), 1e-9)


def assert_as_good_as_eager(
    name: str,
    shape: tuple[int, int, int],
    precision: str,
    score_memory: int = kernels.DEFAULT_SCORE_MEMORY,
    **settings: Any,
) -> None:
    """Errors against float64 at most twice eager torch's in that precision.

    Over several draws together: a single short sum may be exact by luck. One rounding of fp32 is
    allowed besides, for results that are a single number.
    """
    ours, definition = LOSSES[name]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    draws: list[list[tuple[float, float, float]]] = []
    for seed in range(max(2, 30 // shape[0])):
        c = case(*shape, seed=seed, **settings)
        with threads(1):
            exact, eager = definition(c.to(torch.float64)), definition(c.to(dtype))
        with threads(torch.get_num_threads() if seed == 0 else 1):
            got = ours(c, precision=precision, score_memory=score_memory)
        assert [(x.dtype, x.shape) for x in got] == [(torch.float32, y.shape) for y in exact]
        draws.append(
            [
                (error(x, y), error(z, y), float(y.norm()))
                for x, z, y in zip(got, eager, exact, strict=True)
            ]
        )
    total = torch.tensor(draws, dtype=torch.float64).norm(dim=0).tolist()
    for i, (mine, eagers, size) in enumerate(total):
        bound = 2 * eagers + torch.finfo(torch.float32).eps * size
        assert mine <= bound, f"result {i}: error {mine:.3g}, eager's {eagers:.3g}, of {size:.3g}"


@contextmanager
def isa(name: str) -> Iterator[None]:
    before = _C.isa()
    assert _C.select_isa(name)
    try:
        yield
    finally:
        _C.select_isa(before)


@contextmanager
def new_memory_is_nan() -> Iterator[None]:
    """New tensors and scratch memory hold NaN, so that an element never written shows."""
    _stream.release_workspaces()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert bool(torch.empty(3).isnan().all())
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        _stream.release_workspaces()


def same_bits(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def compiled(function: Callable[..., Any], backend: str = "aot_eager") -> Callable[..., Any]:
    """`function` traced as one graph, from a fresh start."""
    torch.compiler.reset()
    result: Callable[..., Any] = torch.compile(function, backend=backend, fullgraph=True)
    return result
