"""Knowledge-graph embeddings with MetaSD: a dense model and a pruned one teach each other.

import metasd
graph = metasd.load_graph("families")
run = metasd.train(graph, metasd.Config(), run_dir="runs/first")
run.metrics["test"]["compact"]["mrr"]
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
    __version__: str
    from metasd import distributed
    from metasd.compressed.model import CompressedModel
    from metasd.config import Config, preset
    from metasd.data.graph import Graph
    from metasd.data.load import load_graph
    from metasd.data.store import prepare
    from metasd.errors import InputError
    from metasd.evaluation import evaluate
    from metasd.export.add import add_entities
    from metasd.export.compress import compress
    from metasd.models.base import Scoring
    from metasd.models.model import Model
    from metasd.training.run import Run
    from metasd.training.stop_signal import Interrupted
    from metasd.training.trainer import resume, train

_MODULES = {
    "CompressedModel": "compressed.model",
    "Config": "config",
    "Graph": "data.graph",
    "InputError": "errors",
    "Interrupted": "training.stop_signal",
    "Model": "models.model",
    "Run": "training.run",
    "Scoring": "models.base",
    "add_entities": "export.add",
    "compress": "export.compress",
    "distributed": "distributed",
    "evaluate": "evaluation",
    "load_graph": "data.load",
    "prepare": "data.store",
    "preset": "config",
    "resume": "training.trainer",
    "train": "training.trainer",
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
    "add_entities",
    "compress",
    "distributed",
    "evaluate",
    "load_graph",
    "prepare",
    "preset",
    "resume",
    "train",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    """Loads a part when it is first asked for: graphs and files need no torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("metasd")
    if name not in _MODULES:
        raise AttributeError(f"module 'metasd' has no attribute {name!r}")
    value = importlib.import_module(f"metasd.{_MODULES[name]}")
    value = getattr(value, name, value)  # or the module itself
    globals()[name] = value
    return value
