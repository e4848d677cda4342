"""studies/published.py: slices of training that end in a table beside the published numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metasd.data.graph import Graph

PROGRAM = Path(__file__).parents[2] / "studies" / "published.py"
TINY = ["model.rank=4", "train.epochs=2", "train.batch_size=400", "eval.every=1"]


def published(folder: Path, minutes: str) -> subprocess.CompletedProcess[str]:
    settings = [word for setting in TINY for word in ("--set", setting)]
    command = ["wn18rr-paper", "--run", "run", "--data-dir", ".", "--minutes", minutes, *settings]
    return subprocess.run(
        [sys.executable, PROGRAM, *command],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "METASD_DATA": ""},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_slices_end_in_a_table(small_graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "WN18RR").mkdir()
    for split in ("train", "valid", "test"):
        rows = ["\t".join(map(str, triple)) for triple in small_graph.split(split).tolist()]
        (tmp_path / "WN18RR" / f"{split}.txt").write_text("\n".join(rows) + "\n")
    cut = published(tmp_path, "0.0001")
    assert cut.returncode == 75, cut.stderr
    done = published(tmp_path, "9")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "published.json").read_text())
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (result["epochs"], result["config"]["model.rank"]) == (2, 4)
    for model in ("source", "compact"):
        assert result["measured"][model] == {
            key: metrics["test"][model][key] for key in result["published"]
        }
    shown = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert shown["mrr"] == ["hits@1", "hits@3", "hits@10"]
    assert shown["published"] == ["0.4910", "0.4470", "0.5040", "0.5700"]
    assert float(shown["compact"][0]) == round(result["measured"]["compact"]["mrr"], 4)


@pytest.mark.slow
def test_no_graph_and_no_time_are_told(tmp_path: Path) -> None:
    assert "--minutes must be above 0" in published(tmp_path, "0").stderr
    missing = published(tmp_path, "1")
    assert missing.returncode == 1
    assert missing.stderr.startswith("published.py: ")
