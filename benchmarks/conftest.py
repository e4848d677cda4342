"""Options of `pytest benchmarks/`, and the machine that a result was measured on."""

import json
from pathlib import Path
from typing import Any

import pytest

from metasd import _C
from metasd.environment import environment, measured_on

RESULTS = Path(__file__).parent / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="small shapes: does every benchmark still run?"
    )
    parser.addoption(
        "--save-results",
        action="store_true",
        help="write benchmarks/results/<instruction set>/<name>.json, from which tables are made",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick") and config.getoption("--save-results"):
        raise pytest.UsageError("--quick measures small shapes: there is nothing to save")


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def record(request: pytest.FixtureRequest, benchmark: Any) -> Any:
    """Puts figures beside a benchmark's own, and into the committed results when asked to."""

    def save(name: str, figures: dict[str, Any]) -> None:
        benchmark.extra_info.update(figures)
        if request.config.getoption("--save-results"):
            content = {**measured_on(), **figures}
            folder = RESULTS / _C.isa()
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")

    return save


@pytest.hookimpl(optionalhook=True)  # benchmarks/gpu.py needs no pytest-benchmark
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    machine_info["metasd"] = environment()
