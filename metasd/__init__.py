"""Knowledge-graph embeddings with MetaSD: a dense model and a pruned one teach each other.

import metasd
graph = metasd.load_graph("families")
run = metasd.train(graph, metasd.preset("student"), run_dir="runs/first")
run.metrics["test"]["pruned"]["mrr"]
run.predict(head="Ada Berg", relation="parent_of")
"""

import importlib.util
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("metasd._C") is None:
    raise ImportError(
        "metasd was found as source without its compiled part: `pip install .` and start Python in "
        "another folder, or `pip install -e .`"
    )

if TYPE_CHECKING:
    from . import sharding
    from .compressed import CompressedModel, compress
    from .config import Config, preset
    from .errors import InputError
    from .evaluation import evaluate
    from .graph import Graph, load_graph
    from .model import Model
    from .models import Scoring
    from .prepared import prepare
    from .run import Run
    from .trainer import Interrupted, resume, train

_WHERE = {
    "CompressedModel": "compressed",
    "Config": "config",
    "Graph": "graph",
    "InputError": "errors",
    "Interrupted": "trainer",
    "Model": "model",
    "Run": "run",
    "Scoring": "models",
    "compress": "compressed",
    "evaluate": "evaluation",
    "load_graph": "graph",
    "prepare": "prepared",
    "preset": "config",
    "resume": "trainer",
    "sharding": "sharding",
    "train": "trainer",
}

__all__ = [
    "CompressedModel",
    "Config",
    "Graph",
    "InputError",
    "Interrupted",
    "Model",
    "Run",
    "Scoring",
    "compress",
    "evaluate",
    "load_graph",
    "prepare",
    "preset",
    "resume",
    "sharding",
    "train",
]


def __getattr__(name: str) -> Any:
    """Loads a part when it is first asked for: graphs and files need no torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'metasd' has no attribute {name!r}")
    value = importlib.import_module(f"metasd.{_WHERE[name]}")
    value = getattr(value, name, value)  # or the module itself
    globals()[name] = value
    return value
