"""The models that studies end with are as good as their records say."""

import json
import sys
from pathlib import Path

import pytest

import metasd
from metasd.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDS = sorted(ROOT.glob("studies/*/model.json"))


@pytest.mark.slow
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_a_model_ranks_as_recorded_and_as_by_brute_force(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    from study_models import METRICS, measured

    record = json.loads(path.read_text(encoding="utf-8"))
    try:
        graph = metasd.load_graph(record["graph"])
    except InputError as error:
        pytest.skip(f"no {record['graph']}: {error}")
    model = metasd.CompressedModel.from_pretrained(path.parent / "model")
    for split, found in measured(model, graph).items():
        for metric in METRICS:
            assert found[metric] == pytest.approx(record[split][metric], abs=2e-4)
            assert found["brute force"][metric] == pytest.approx(found[metric], abs=2e-4)


def test_a_model_in_the_repository_is_small() -> None:
    for path in RECORDS:
        files = list((path.parent / "model").iterdir())
        assert sum(file.stat().st_size for file in files) <= 16e6, path
