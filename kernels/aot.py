"""`python -m metasd.kernels.aot`: compiles every GPU kernel for named targets, without a GPU.

The operations run on tensors of torch's meta device while their launches are recorded, so what is
compiled is what they launch: the same signatures, constants, warps and stages. For each kernel the
report says registers and spills a thread, shared memory, and the matrix instructions in its machine
code. A spill, more shared memory than the target has, or a product without matrix instructions is a
failure (exit status 1).
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from metasd import _C

from .gpu import kernel

ARCHS = (80, 90)
RANKS = (32, 50, 100, 200, 256, 500, 1000, 2000)
"""Of ComplEx, whose rows are 2 * rank wide."""

PRECISIONS = ("fp32", "tf32", "bf16")

SHARED_MEMORY = {80: 163 << 10, 87: 163 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10}
"""Bytes of shared memory that a thread block can have, by architecture; 99 KiB on others."""


@dataclass
class Launch:
    """A kernel as it is launched. `options` are warps and stages."""

    kernel: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    precision: str
    ranks: list[int] = field(default_factory=list)


@dataclass
class Report:
    """What the compiler made of a launch for one architecture."""

    kernel: str
    arch: int
    precision: str
    ranks: list[int]
    constants: dict[str, Any]
    warps: int
    stages: int
    registers: int
    spills: int
    shared_memory: int
    instructions: list[str]
    failures: list[str]


def launches(arch: int, ranks: tuple[int, ...], precisions: tuple[str, ...]) -> list[Launch]:
    """What the operations launch on `arch`, each different launch once."""
    from .gpu._launch import recording

    found: dict[str, Launch] = {}

    def record(kernel: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        options, signature, constants, attributes = _specialize(kernel, arguments, keywords, arch)
        key = str((kernel.__name__, signature, constants, attributes, options.hash()))
        chosen = keywords.get("PRECISION", "")
        launch = found.setdefault(key, Launch(kernel, arguments, keywords, chosen))
        if rank not in launch.ranks:
            launch.ranks.append(rank)

    with recording(record, arch):
        for precision in precisions:
            for rank in ranks:
                for masked, pruned, weighted in VARIANTS:
                    _run_operations(2 * rank, precision, masked, pruned, weighted)
    return list(found.values())


VARIANTS = [(True, False, False), (True, True, True), (False, False, False)]
"""Whether there is a mask, a whole pruned table, entity weights."""


def _run_operations(width: int, precision: str, masked: bool, pruned: bool, weighted: bool) -> None:
    """Every operation, on meta tensors of FB15k-237's size."""
    rows, entities, known = 5000, 14541, 60000
    new = partial(torch.empty, device="meta")
    e, q = new(entities, width), new(rows, width)
    index = new(rows, dtype=torch.int64)
    mask = new(entities, (width + 31) // 32, dtype=torch.int32) if masked else None
    table = new(entities, width) if pruned else None
    weight = new(entities) if weighted else None
    exchange, memory = (3.0, 3.0, 1.0), 256 << 20
    streaming = precision, memory
    kernel("entity_cross_entropy")(q, e, index, mask, table, weight, *streaming)
    if masked:
        for mutual in (False, True):
            arguments = (q, q, e, mask, table, index, weight, *exchange, mutual, *streaming)
            kernel("distillation")(*arguments)
        kernel("meta_gradient")(q, q, q, e, e, mask, table, *exchange, 0.1, *streaming)
    if pruned:
        return
    csr = new(rows + 1, dtype=torch.int64), new(known, dtype=torch.int64)
    kernel("score_entities")(q, e, mask, precision)
    kernel("rank_targets")(q, e, index, *csr, mask, *streaming)
    for k in (10, 1000):
        kernel("topk_entities")(q, e, k, *csr, mask, *streaming)
    kernel("masked_rows")(e, mask, index)
    kernel("scatter_rows")(q, mask, index, e)
    kernel("adagrad_rows")(q, e, e, index, q, 0.1)
    kernel("score_triples")(q, q)
    for weight_format in _C.WEIGHT_FORMATS:
        kernel("quantize_rows")(e, mask, weight_format)
    kernel("complex_product")(q, q, True)
    _run_complex_rows(e, q, mask, index)
    for queries in (q[:16], q[:64]):
        _run_compressed(queries, entities)


def _run_complex_rows(
    e: torch.Tensor, q: torch.Tensor, mask: torch.Tensor | None, index: torch.Tensor
) -> None:
    from .gpu.complex_product import complex_rows

    parts = (e, q, False, mask, index, mask, index)
    complex_rows(*parts)
    complex_rows(*parts, e, mask, index)


def _run_compressed(q: torch.Tensor, entities: int) -> None:
    new = partial(torch.empty, device="meta")
    scores = new(q.shape[0], entities)
    scale, indptr = new(entities), new(entities + 1, dtype=torch.int64)
    for bits, zero in ((8, 128), (4, 8), (3, 3.5), (2, 1), (2, 1.5)):
        codes = new(entities, -(-q.shape[1] * bits // 8), dtype=torch.uint8)
        kernel("code_scores")(codes, scale, q, bits, zero, None, 0, scores)
    gaps, values = new(9999, dtype=torch.uint8), new(9999, dtype=torch.float16)
    kernel("sparse_scores")(indptr, gaps, values, None, q, None, 0, scores)


def _specialize(
    kernel: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], arch: int
) -> tuple[Any, ...]:
    """(options, signature, constants, attributes), found the way Triton's own launcher does."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(GPUTarget("cuda", arch, 32))
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(*arguments, **keywords)
    packed: tuple[Any, ...] = kernel._pack_args(backend, keywords, bound, specialization, options)
    return packed


def compile_launch(launch: Launch, arch: int) -> Report:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options, signature, constants, attributes = _specialize(
        launch.kernel, launch.arguments, launch.keywords, arch
    )
    source = ASTSource(launch.kernel, signature, constants, attributes)
    target = GPUTarget("cuda", arch, 32)
    compiled = triton.compile(source, target=target, options=options.__dict__)
    registers, sass = _read_binary(compiled.asm["cubin"])
    product = bool(launch.precision)
    report = Report(
        kernel=launch.kernel.__name__.strip("_"),
        arch=arch,
        precision=launch.precision,
        ranks=launch.ranks,
        constants={k: v for k, v in launch.keywords.items() if k.isupper()},
        warps=options.num_warps,
        stages=options.num_stages,
        registers=registers,
        spills=len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        shared_memory=compiled.metadata.shared,
        instructions=[name for name, op in MATRIX if re.search(op, sass)],
        failures=[],
    )
    limit = SHARED_MEMORY.get(arch, 99 << 10)
    if report.spills:
        report.failures.append(f"{report.spills} spill instructions")
    if report.shared_memory > limit:
        report.failures.append(f"{report.shared_memory} bytes of shared memory, limit {limit}")
    if product and not report.instructions:
        report.failures.append("no matrix instructions")
    return report


MATRIX = [("tcgen05", r"\bUTC\w*MMA\b"), ("wgmma", r"\bHGMMA\b"), ("mma", r"\bHMMA\b")]
"""Names of matrix instructions, and how they show in machine code."""


def _read_binary(cubin: bytes) -> tuple[int, str]:
    """(registers a thread, disassembly)."""
    from triton import knobs

    cuobjdump = knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _output([cuobjdump, "--dump-resource-usage", file.name])
        sass = _output([cuobjdump, "-sass", file.name])
    return int(re.findall(r"\bREG:(\d+)", usage)[0]), sass


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compile_cuda(source: Path, arch: int) -> list[Report]:
    """What nvcc makes of a CUDA source for one architecture: a report for each kernel."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", "-Xptxas", "-v"]
        command.append(f'-DMETASD_CUDA_ARCHS="{arch}"')
        command += [str(source), "-o", f"{folder}/a.cubin"]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    reports = []
    for entry in re.split(r"Compiling entry function '", log)[1:]:
        registers = int(re.findall(r"Used (\d+) registers", entry)[0])
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", entry))
        shared = sum(int(n) for n in re.findall(r"(\d+) bytes smem", entry))
        name = _demangled(entry.split("'")[0])
        failures = [f"{spills} bytes spilled"] if spills else []
        reports.append(
            Report(name, arch, "", [], {}, 0, 0, registers, spills, shared, [], failures)
        )
    return reports


def _demangled(name: str) -> str:
    """A mangled C++ name's last part."""
    parts, rest = [], name.removeprefix("_ZN").removeprefix("_Z")
    while match := re.match(r"\d+", rest):
        start, length = match.end(), int(match[0])
        parts.append(rest[start : start + length])
        rest = rest[start + length :]
    return parts[-1] if parts else name


Share = tuple[int, tuple[int, ...], tuple[str, ...], str, int, int]


def _compile(share: Share) -> Iterator[Report]:
    """A worker's share of an architecture's launches: every `jobs`-th, from the `job`-th."""
    arch, ranks, precisions, name, job, jobs = share
    found = [x for x in launches(arch, ranks, precisions) if name in x.kernel.__name__]
    for launch in found[job::jobs]:
        yield compile_launch(launch, arch)


def _compile_all(share: Share) -> list[Report]:
    return list(_compile(share))


def reports(
    archs: tuple[int, ...],
    ranks: tuple[int, ...],
    precisions: tuple[str, ...],
    name: str,
    jobs: int,
) -> Iterator[Report]:
    """Compiles every kernel with `name` in its name, in `jobs` processes."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SystemExit("with TRITON_INTERPRET=1 Triton compiles nothing")
    shares = [(arch, ranks, precisions, name, job, jobs) for arch in archs for job in range(jobs)]
    if jobs == 1:
        for share in shares:
            yield from _compile(share)
    else:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            for found in pool.map(_compile_all, shares):
                yield from found
    source = Path(__file__).resolve().parent.parent / "csrc" / "topk_mask.cu"
    if name not in "topk_mask":
        return
    if not source.exists() or not shutil.which("nvcc"):
        missing = "nvcc is not in PATH" if source.exists() else "its source is only in a checkout"
        print(f"topk_mask.cu is left out: {missing}", file=sys.stderr)
        return
    for arch in archs:
        yield from compile_cuda(source, arch)


def _row(report: Report) -> str:
    constants = {k: v for k, v in report.constants.items() if k not in ("PRECISION", "GROUP")}
    block = [constants.pop(f"BLOCK_{x}", None) for x in "NBK"]
    shape = "x".join(str(b) for b in block if b is not None)
    rest = " ".join(f"{k.lower()}={v}" for k, v in constants.items())
    return (
        f"sm_{report.arch} {report.kernel:33} {report.precision:5} {shape:10} "
        f"{report.warps:5} {report.stages:6} {report.registers:9} {report.spills:6} "
        f"{report.shared_memory:7} {'+'.join(report.instructions) or '-':6} {rest}"
        + "".join(f"  FAILED: {failure}" for failure in report.failures)
    )


_HEADER = (
    "arch  kernel                            prec. tile       warps stages registers spills  "
    "shared matrix constants"
)


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}; got {value}")
        return value

    return number


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m metasd.kernels.aot", description=__doc__)
    parser.add_argument(
        "--arch", type=_at_least(70), action="append", help="80, 90, ...; all may be repeated"
    )
    parser.add_argument("--rank", type=_at_least(1), action="append")
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--kernel", default="", help="only kernels whose name has this in it")
    parser.add_argument("--jobs", type=_at_least(1), default=1, help="processes (default 1)")
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    options = parser.parse_args(arguments)
    found = []
    if not options.json:
        print(_HEADER)
    for report in reports(
        tuple(options.arch or ARCHS),
        tuple(options.rank or RANKS),
        tuple(options.precision or PRECISIONS),
        options.kernel,
        options.jobs,
    ):
        found.append(report)
        if not options.json:
            print(_row(report), flush=True)
    if options.json:
        print(json.dumps([asdict(report) for report in found], indent=1))
    failed = sum(bool(report.failures) for report in found)
    print(f"{len(found)} kernels compiled, {failed} failed", file=sys.stderr)
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
