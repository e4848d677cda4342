"""The operations and the training step on a GPU: checked first, then measured.

    python benchmarks/gpu.py            # writes benchmarks/results/<gpu>.json and prints a table
    python benchmarks/gpu.py --quick --device cpu --out /tmp    # every part once, on tiny shapes

Every operation is compared with its definition in float64 on the same device; a difference above
its bound ends the program before anything is timed. Baselines are eager PyTorch in the same
precision (dense.py), `torch.compile` of it, and `F.linear_cross_entropy` where PyTorch has it.
Ceilings are measured, not looked up: the bandwidth of a copy, the rate of large matrix products.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional

from dense import DenseMetaSD, Settings
from metasd import _C, kernels
from metasd.models import Scoring
from metasd.models.model import Model
from metasd.training.schedule import Phase
from metasd.training.step import Step

BOUNDS = {"fp32": 2e-5, "tf32": 5e-3, "bf16": 2e-2}
"""Largest relative error (by norm) of a result in each precision of the products."""

Results = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    name: str
    entities: int
    relations: int
    """Inverses counted."""
    rank: int
    batch: int


WORKLOADS = [
    Workload("FB15k-237, rank 200", 14_541, 474, 200, 5000),
    Workload("FB15k-237, rank 2000", 14_541, 474, 2000, 5000),
    Workload("WN18RR, rank 2000", 40_943, 22, 2000, 1000),
    Workload("2.5 million entities, rank 50", 2_500_604, 1070, 50, 512),
]
QUICK = [Workload("tiny", 700, 10, 8, 40)]


@dataclass(frozen=True)
class Inputs:
    """What the operations take: queries (B, d), tables (N, d), a mask that keeps a tenth."""

    q_source: Tensor
    q_pruned: Tensor
    dq_pruned: Tensor
    entities: Tensor
    dentities: Tensor
    mask: Tensor
    targets: Tensor

    @staticmethod
    def make(batch: int, entities: int, width: int, device: str) -> "Inputs":
        generator = torch.Generator(device).manual_seed(0)

        def normal(rows: int, scale: float) -> Tensor:
            return scale * torch.randn(rows, width, generator=generator, device=device)

        table = normal(entities, 0.3)
        return Inputs(
            normal(batch, 1.0),
            normal(batch, 1.0),
            normal(batch, 1.0),
            table,
            normal(entities, 0.3),
            kernels.topk_mask([table], 0.9)[0],
            torch.randint(entities, (batch,), generator=generator, device=device),
        )

    def double(self) -> "Inputs":
        fields = {k: v.double() if v.is_floating_point() else v for k, v in vars(self).items()}
        return Inputs(**fields)


def operations(precision: str) -> dict[str, Callable[[Inputs], Any]]:
    """Every operation whose result depends on the precision of products."""
    options: dict[str, Any] = {"precision": precision}
    return {
        "score_entities": lambda x: kernels.score_entities(
            x.q_pruned, x.entities, x.mask, **options
        ),
        "entity_cross_entropy": lambda x: kernels.entity_cross_entropy_gradients(
            x.q_source, x.entities, x.targets, x.mask, **options
        ),
        "inner_distillation": lambda x: kernels.inner_distillation(
            x.q_source, x.q_pruned, x.entities, x.mask, x.targets, **options
        ),
        "meta_gradient": lambda x: kernels.meta_gradient(
            x.q_source, x.q_pruned, x.dq_pruned, x.entities, x.dentities, x.mask, **options
        ),
        "mutual_distillation": lambda x: kernels.mutual_distillation(
            x.q_source, x.q_pruned, x.entities, x.mask, x.targets, **options
        ),
    }


RANKINGS: dict[str, Callable[[Inputs], Any]] = {
    "rank_targets": lambda x: kernels.rank_targets(
        x.q_source, x.entities, x.targets, mask=x.mask, precision="fp32"
    ),
    "topk_entities": lambda x: kernels.topk_entities(
        x.q_source, x.entities, 10, mask=x.mask, precision="fp32"
    ),
}


def check(device: str) -> Results:
    """Relative errors of every operation against float64; raises where one is above its bound."""
    errors: Results = {}
    shapes = [(1, 33, 6), (37, 1031, 70), (130, 700, 400)]
    for precision, bound in BOUNDS.items():
        for name, run in operations(precision).items():
            worst = 0.0
            for shape in shapes:
                x = Inputs.make(*shape, device)
                for got, wanted in zip(flat(run(x)), flat(run(x.double())), strict=True):
                    worst = max(worst, float((got.double() - wanted).norm() / wanted.norm()))
            errors[f"{name}, {precision}"] = worst
            if not worst <= bound:
                raise SystemExit(f"{name} in {precision}: error {worst:.2g}, allowed {bound:.2g}")
    for name, run in RANKINGS.items():
        x = whole_numbers(Inputs.make(37, 1031, 70, device))  # products of these are exact
        if not all(map(torch.equal, ids(run(x)), ids(run(x.double())))):
            raise SystemExit(f"{name}: differs from its definition")
        errors[name] = 0.0
    return errors


def whole_numbers(x: Inputs) -> Inputs:
    return Inputs(**{k: v.round() if v.is_floating_point() else v for k, v in vars(x).items()})


def ids(result: tuple[Tensor, ...]) -> list[Tensor]:
    return [part.double() for part in result]


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


class Meter:
    """Median seconds and peak bytes above what is allocated before, on one device."""

    def __init__(self, device: str, budget: float) -> None:
        self.device, self.budget = device, budget

    def __call__(self, run: Callable[[], object]) -> Results:
        """`{"seconds", "peak_bytes"}`, or `{"failed"}`: out of memory, or a rival's own error."""
        try:
            run()
            run()
            self.wait()
            held = self.allocated()
            seconds: list[float] = []
            while len(seconds) < 5 or (sum(seconds) < self.budget and len(seconds) < 200):
                start = time.perf_counter()
                run()
                self.wait()
                seconds.append(time.perf_counter() - start)
            return {
                "seconds": statistics.median(seconds),
                "repeats": len(seconds),
                "peak_bytes": self.peak() - held,
            }
        except torch.OutOfMemoryError:
            return {"failed": "out of memory"}
        except RuntimeError as error:
            return {"failed": str(error).split("\n")[0]}
        finally:
            self.clear()

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def allocated(self) -> int:
        if self.device != "cuda":
            return 0
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else 0

    def clear(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """fp32 products of eager PyTorch in tf32, or exactly."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def ceilings(meter: Meter, quick: bool) -> Results:
    """Bytes a second of a copy (read and written), and flop a second of square products."""
    size = 1 << (16 if quick else 28)
    source = torch.randn(size, device=meter.device)
    target = torch.empty_like(source)
    found: Results = {
        "copy_bytes_per_second": 8 * size / meter(lambda: target.copy_(source))["seconds"]
    }
    n = 64 if quick else 8192
    for precision, dtype in (("bf16", torch.bfloat16), ("tf32", torch.float32)):
        a = torch.randn(n, n, device=meter.device, dtype=dtype)
        out = torch.empty_like(a)
        with products_in(precision):
            seconds = meter(lambda a=a, out=out: torch.mm(a, a, out=out))["seconds"]  # type: ignore[misc]
        found[f"{precision}_flop_per_second"] = 2 * n**3 / seconds
    return found


def eager_cross_entropy(x: Inputs, dtype: torch.dtype | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The masked 1-N cross entropy of (queries, entities) as PyTorch users write it."""
    kept = kernels.unpack_mask(x.mask, x.entities.shape[1])

    def loss(queries: Tensor, entities: Tensor) -> Tensor:
        table = torch.where(kept, entities, 0.0)
        if dtype is not None:
            queries, table = queries.to(dtype), table.to(dtype)
        return functional.cross_entropy((queries @ table.T).float(), x.targets)

    return loss


def with_gradients(loss: Callable[[Tensor, Tensor], Tensor], x: Inputs) -> Callable[[], object]:
    leaves = [t.clone().requires_grad_() for t in (x.q_source, x.entities)]
    return lambda: torch.autograd.grad(loss(*leaves), leaves)


def cross_entropy_rivals(x: Inputs, precision: str, quick: bool) -> dict[str, Callable[[], object]]:
    dtype = torch.bfloat16 if precision == "bf16" else None
    rivals = {"eager": with_gradients(eager_cross_entropy(x, dtype), x)}
    if not quick:
        rivals["torch.compile"] = with_gradients(
            torch.compile(eager_cross_entropy(x, dtype), dynamic=False), x
        )
    fused = getattr(functional, "linear_cross_entropy", None)
    if fused is not None:
        # It knows no mask: it is given the masked table.
        table = torch.where(kernels.unpack_mask(x.mask, x.entities.shape[1]), x.entities, 0.0)
        leaves = [t.to(dtype).detach().requires_grad_() for t in (x.q_source, table)]
        rivals["F.linear_cross_entropy"] = lambda: torch.autograd.grad(
            fused(*leaves, x.targets), leaves
        )
    return rivals


def measure_operations(
    work: Workload, precision: str, meter: Meter, ceiling: Results, quick: bool
) -> Results:
    x = Inputs.make(work.batch, work.entities, 2 * work.rank, meter.device)
    results: Results = {}
    if work.entities * work.batch < 1 << 29:
        flop = 2.0 * work.entities * work.batch * 2 * work.rank
        for name, run in operations(precision).items():
            results[name] = meter(lambda run=run: run(x))  # type: ignore[misc]
        seconds = results["score_entities"].get("seconds")
        limit = ceiling.get(f"{precision}_flop_per_second")
        if seconds and limit:
            results["score_entities"]["share_of_products"] = flop / seconds / limit
    for name, run in (RANKINGS if precision == "bf16" else {}).items():  # they are fp32 either way
        results[name] = meter(lambda run=run: run(x))  # type: ignore[misc]
    with products_in(precision):
        for name, rival in cross_entropy_rivals(x, precision, quick).items():
            results[f"entity_cross_entropy, {name}"] = meter(rival)
    results["topk_mask"] = meter(lambda: kernels.topk_mask([x.entities], 0.9))
    if "seconds" in results["topk_mask"]:
        floor = 3 * 4 * x.entities.numel() / (ceiling["copy_bytes_per_second"])
        results["topk_mask"]["share_of_bandwidth"] = floor / results["topk_mask"]["seconds"]
    return results


def settings(precision: str) -> Any:
    """What `Step` reads of a Config with relation prediction, as in dense.Settings.

    Written out because Config is made of libraries that a bare image of PyTorch does not have.
    """
    return SimpleNamespace(
        train=SimpleNamespace(
            gradient_sampling="off",
            triples_per_query=1,
            objective="metasd",
            lr=0.1,
            source_step=True,
            precision=precision,
            score_memory=256 << 20,
        ),
        regularizer=SimpleNamespace(name="dura", weight=0.1),
        relation_prediction=SimpleNamespace(weight=4.0),
        distill=SimpleNamespace(
            temperature=3.0, forward_weight=3.0, backward_weight=1.0, meta_lr=1e-4, inner_lr=0.1
        ),
    )


def measure_step(work: Workload, precision: str, meter: Meter) -> Results:
    """The whole step: ours, and the dense baseline eager and compiled."""
    generator = torch.Generator().manual_seed(0)

    def triples() -> Tensor:
        limits = (work.entities, work.relations, work.entities)
        columns = [torch.randint(limit, (work.batch,), generator=generator) for limit in limits]
        return torch.stack(columns, dim=1).to(meter.device)

    def tables() -> tuple[Tensor, Tensor]:
        shapes = ((work.entities, 2 * work.rank), (work.relations, 2 * work.rank))
        e, r = (0.1 * torch.randn(s, generator=generator).to(meter.device) for s in shapes)
        return e, r

    batch, quiz = triples(), triples()
    entities, relations = tables()
    masks = kernels.topk_mask([entities, relations], 0.9)
    scoring = Scoring.named("complex")(work.rank)
    model = Model(scoring, entities, relations, (masks[0], masks[1]))
    step = Step(model, settings(precision))
    ours = meter(
        lambda: step(Phase.SHARED, *(step.batch(*part.T.contiguous()) for part in (batch, quiz)))
    )
    step.optimizer.state.clear()
    step.meta_optimizer.state.clear()
    try:
        dense = DenseMetaSD(
            entities,
            relations,
            Settings(work.rank, product_dtype=torch.bfloat16 if precision == "bf16" else None),
            *(kernels.unpack_mask(mask, 2 * work.rank) for mask in masks),
        )
        with products_in(precision):
            eager = meter(lambda: dense.step(batch, quiz))
    except torch.OutOfMemoryError:
        eager = {"failed": "out of memory"}
    return {"metasd": ours, "eager": eager}


def measure(device: str, quick: bool, seconds: float, save: Callable[[Results], None]) -> Results:
    """Everything, saved after each workload; those for which `seconds` leave no time are named."""
    start = time.monotonic()
    meter = Meter(device, 0.0 if quick else 0.5)
    results: Results = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "topk_mask": "csrc/topk_mask.cu" if _C.CUDA_ARCHS else "PyTorch: built without CUDA",
        "errors": check(device),
    }
    print(f"{len(results['errors'])} results agree with float64", file=sys.stderr)
    results["ceilings"] = ceilings(meter, quick)
    for work in QUICK if quick else WORKLOADS:
        for precision in ("bf16", "tf32"):
            title = f"{work.name}, {precision}"
            print(f"{time.monotonic() - start:.0f} s: {title}", file=sys.stderr)
            if time.monotonic() - start > seconds:
                results.setdefault("no_time_for", []).append(title)
                continue
            torch.compiler.reset()
            results[title] = {
                "step": measure_step(work, precision, meter),
                "operations": measure_operations(
                    work, precision, meter, results["ceilings"], quick
                ),
            }
            save(results)
    return results


def table(results: Results) -> str:
    """One line for everything measured: milliseconds and megabytes."""
    lines = []
    for title, parts in results.items():
        if not isinstance(parts, dict) or "step" not in parts:
            continue
        lines.append(title)
        for group in parts.values():
            for name, found in group.items():
                value = found.get("failed") or (
                    f"{1e3 * found['seconds']:10.3f} ms {found['peak_bytes'] / 1e6:10.1f} MB"
                )
                shares = [f"{100 * v:.0f} % {k}" for k, v in found.items() if k.startswith("share")]
                lines.append(f"  {name:44} {value} {' '.join(shares)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="every part once, on tiny shapes")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    parser.add_argument("--seconds", type=float, default=420, help="after which no workload begins")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --device cpu --quick tries the program itself")
    arguments.out.mkdir(parents=True, exist_ok=True)

    def path_of(results: Results) -> Path:
        name: str = results["device"].lower().replace(" ", "-")
        return arguments.out / f"{name}.json"

    def save(results: Results) -> None:
        path_of(results).write_text(json.dumps(results, indent=1) + "\n")

    results = measure(arguments.device, arguments.quick, arguments.seconds, save)
    save(results)
    print(table(results))
    print(path_of(results))


if __name__ == "__main__":
    main()
