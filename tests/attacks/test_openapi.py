"""schemathesis: requests drawn from the OpenAPI document, and answers that must be as it says."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service_model import served, small_model

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
checks = importlib.import_module("schemathesis.specs.openapi.checks")

EXAMPLES = 30  # per operation, of which there are seven


def operations() -> list[Any]:
    from metasd.service import create_app

    document = schemathesis.openapi.from_dict(create_app(small_model()).openapi())
    return [found.ok() for found in document.get_all_operations()]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("openapi") / "model"
    small_model().save_pretrained(folder)
    with served("-m", "metasd", "serve", folder, "--port", "0") as (address, process):
        yield f"http://{address}"
        assert process.poll() is None


@pytest.mark.parametrize("operation", operations(), ids=lambda one: f"{one.method} {one.path}")
def test_every_answer_is_as_the_document_says(operation: Any, url: str) -> None:
    drawn = st.one_of(operation.as_strategy(generation_mode=m) for m in schemathesis.GenerationMode)
    wanted = (
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    )

    @given(case=drawn)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        case.call_and_validate(base_url=url, checks=wanted)

    check()
