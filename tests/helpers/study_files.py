"""A study of seconds, with changes."""

from pathlib import Path
from typing import Any

import yaml

CONTENT: dict[str, Any] = {
    "graph": "families:120",
    "preset": "metasd",
    "seeds": [0, 1],
    "settings": {"model.rank": 8, "train.epochs": 1, "train.batch_size": 400},
    "runs": {
        "dense": {"train.objective": "dense"},
        "prune": {"train.objective": "compact", "prune.fraction": [0.5, 0.9]},
    },
    "store": ["source fp32", "source int8", "compact sparse fp16", "one-shot sparse fp16"],
}


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}))
    return path
