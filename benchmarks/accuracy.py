"""What compression costs: size and test metrics of a run's models in every codec.

    python benchmarks/accuracy.py RUN    # writes benchmarks/results/accuracy-<graph>.json

Test is read for the codecs of one finished run; nothing is chosen by it.
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from metasd import compress, evaluate
from metasd.environment import measured_on
from metasd.training.run import Run

RESULTS = Path(__file__).parent / "results"
MODELS = {
    "compact": [("sparse", "fp32"), ("sparse", "fp16"), ("sparse", "int8")],
    "source": [(name, name) for name in ("int8", "int4", "int3", "int2", "ternary")],
}
METRICS = ("mrr", "hits@1", "hits@3", "hits@10")


def measure(run: Run) -> dict[str, Any]:
    graph = run.graph()
    models = {}
    for kind, codecs in MODELS.items():
        exact = run.metrics["test"][kind]
        models[kind] = {"bytes": None, **{key: exact[key] for key in METRICS}}
        for codec, weight_format in codecs:
            small = compress(run, codec, weight_format, source=kind == "source", graph=graph)
            with tempfile.TemporaryDirectory() as folder:
                small.save_pretrained(Path(folder) / "model")
                files = sum(x.stat().st_size for x in (Path(folder) / "model").iterdir())
            found = evaluate(small, graph, split="test")
            name = f"{kind}, {codec}" + (f" {weight_format}" if weight_format != codec else "")
            print(f"{name}: MRR {found['mrr']:.4f}, {files / 1e6:.1f} MB", file=sys.stderr)
            models[name] = {
                "bytes": small.nbytes,
                "folder_bytes": files,
                **{key: found[key] for key in METRICS},
            }
    dense = 4 * (run.model.entities.numel() + run.model.relations.numel())
    for found in models.values():
        found["bytes"] = found["bytes"] or dense
    return {
        "graph": run.metrics["protocol"]["graph"],
        **measured_on(),
        "config": run.config.flat(),
        "protocol": run.metrics["protocol"],
        "epochs": len(run.history),
        "dense_fp32_bytes": dense,
        "models": models,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    result = measure(Run.load(parser.parse_args().run))
    name = re.sub(r"\W+", "-", result["graph"].lower())
    path = RESULTS / f"accuracy-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
