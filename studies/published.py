"""The published settings (rank 2000) in slices; the eight published numbers beside the measured.

python studies/published.py fb15k-237-paper --run runs/fb15k --minutes 9   # again, until it is done
python studies/published.py wn18rr-paper --run runs/wn18rr --minutes 9

A slice ends with a checkpoint in the run folder; the next call continues from it. When the last
epoch is done, or nothing has been gained for four evaluations, the table is printed and
`published.json` written beside the metrics. Exit status: 0 when done, 75 when there is more to do.
"""

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from metasd import Interrupted, Run, resume, train
from metasd.config import preset
from metasd.data.load import load_graph
from metasd.environment import measured_on
from metasd.errors import InputError
from metasd.files import write_text

MORE = 75  # EX_TEMPFAIL
METRICS = ("mrr", "hits@1", "hits@3", "hits@10")
PUBLISHED = {  # filtered, on test: the compact model (Li et al., Findings of EMNLP 2022)
    "fb15k-237-paper": ("FB15k-237", (0.391, 0.300, 0.428, 0.571)),
    "wn18rr-paper": ("WN18RR", (0.491, 0.447, 0.504, 0.570)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("preset", choices=PUBLISHED)
    parser.add_argument("--run", type=Path, required=True, help="the run folder")
    parser.add_argument("--minutes", type=float, default=9, help="length of a slice")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    given = parser.parse_args()
    name, wanted = PUBLISHED[given.preset]
    if given.minutes <= 0:
        parser.error(f"--minutes must be above 0; got {given.minutes:g}")
    # Until training has its own: an exception could be lost in what is just being imported.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(MORE))
    timer = threading.Timer(60 * given.minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        graph = load_graph(name, given.data_dir)
        if (given.run / "config.yaml").exists():
            run = resume(given.run, given.settings, graph)
        else:
            run = train(graph, preset(given.preset).override(given.settings), given.run)
    except Interrupted as stopped:
        print(f"{stopped}; call again to continue", file=sys.stderr)
        sys.exit(MORE)
    except InputError as error:
        sys.exit(f"published.py: {error}")
    except KeyboardInterrupt:
        sys.exit("published.py: interrupted; call again to continue")
    finally:
        timer.cancel()
    report(run, wanted)


def report(run: Run, wanted: tuple[float, ...]) -> None:
    """Prints and keeps published and measured numbers."""
    test = run.metrics["test"]
    result = {
        **measured_on(),
        "config": run.config.flat(),
        "epochs": len(run.history),
        "best_epoch": run.metrics["protocol"]["best_epoch"],
        "training_seconds": sum(record["seconds"] for record in run.history),
        "published": dict(zip(METRICS, wanted, strict=True)),
        "measured": {model: {key: test[model][key] for key in METRICS} for model in test},
    }
    write_text(run.path / "published.json", json.dumps(result, indent=1) + "\n")
    print(f"{'':9}" + "".join(f"{key:>9}" for key in METRICS))
    rows = [("published", wanted)]
    rows += [
        (model, [found[key] for key in METRICS]) for model, found in result["measured"].items()
    ]
    for model, values in rows:
        print(f"{model:9}" + "".join(f"{value:9.4f}" for value in values))


if __name__ == "__main__":
    main()
