"""Arguments and options that several commands have, and how their values are read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metasd.errors import InputError

from .output import note

if TYPE_CHECKING:
    from metasd.compressed import CompressedModel
    from metasd.data.graph import Graph
    from metasd.data.vocabulary import Vocabulary
    from metasd.training.run import Run

_RATIOS = "0.9,0.05,0.05"

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
ModelPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A run folder, or a folder of `metasd compress`."),
]
GraphName = Annotated[
    str | None,
    typer.Option("--graph", help="The graph, if it is no longer where the run found it."),
]
KnownGraph = Annotated[
    str | None,
    typer.Option(
        "--graph",
        help="The graph of the known answers, if not the model's own: it may have new triples.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where graphs are looked up by name (also: METASD_DATA)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="The device that scores: cpu, or a GPU such as cuda.")]
Columns = Annotated[
    str, typer.Option(help="The order of head, relation and tail in the files, such as htr.")
]
SplitRatios = Annotated[
    str | None,
    typer.Option(
        "--split-ratios",
        metavar="TRAIN,VALID,TEST",
        help="Shares of train, valid and test, for a GRAPH without valid or test.",
        show_default=_RATIOS,
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first line of text files is a header.",
        show_default="if it names the columns",
    ),
]
Shards = Annotated[
    int | None,
    typer.Option(
        help="Blocks of entities in a distributed run, one per process of a replica.",
        show_default="processes of torchrun / replicas",
    ),
]
Replicas = Annotated[
    int, typer.Option(help="Copies of all blocks in a distributed run; they share each batch.")
]


def parse_split_ratios(
    graph: str, text: str | None, data_dir: Path | None
) -> tuple[float, float, float]:
    """The shares of a graph's splits, as --split-ratios gives them or by default."""
    from metasd.data.sources import needs_splits

    try:
        train, valid, test = (float(part) for part in (text or _RATIOS).split(","))
    except ValueError:
        raise InputError(
            f"--split-ratios takes three shares such as 0.9,0.05,0.05; got {text}"
        ) from None
    if text is not None and not needs_splits(graph, data_dir):
        raise InputError(f"--split-ratios is for files without valid or test; got {graph}")
    return train, valid, test


def load_run(path: Path) -> "Run":
    from metasd.training.run import Run

    return Run.load(path)


def load_compressed(path: Path) -> "CompressedModel | None":
    """The compressed model in a folder; None where the folder is not of one."""
    from metasd.compressed import CompressedModel
    from metasd.compressed.storage import is_compressed

    return CompressedModel.from_pretrained(path) if is_compressed(path) else None


def load_model(path: Path) -> "CompressedModel | Run":
    """The compressed model or the run in a folder."""
    small = load_compressed(path)
    if small is not None:
        return small
    from metasd.training.run import NEITHER, RunFolder

    RunFolder(path).require(NEITHER)
    return load_run(path)


def graph_of(model: "CompressedModel | Run", graph: str | None, data_dir: Path | None) -> "Graph":
    """The graph that a model was trained on; another one is refused."""
    from metasd.data.comparison import check_same

    found, description, vocabulary, owner = _find_graph(model, graph, data_dir)
    if description:
        check_same(found, description, vocabulary, owner)
    return found


def known_graph(
    model: "CompressedModel | Run", graph: str | None, data_dir: Path | None
) -> "Graph":
    """A graph whose triples are known answers, with the ids of the model.

    Other triples than the model was trained on are noted: the graph may have grown since. A graph
    with other labels is refused.
    """
    from metasd.data.comparison import other_triples, with_labels_of

    found, description, vocabulary, owner = _find_graph(model, graph, data_dir)
    known = with_labels_of(found, vocabulary, owner)
    if other := other_triples(found, description):
        note(f"known answers are those of {found.name}, on which {owner} was not trained: {other}")
    return known


def _find_graph(
    model: "CompressedModel | Run", graph: str | None, data_dir: Path | None
) -> "tuple[Graph, dict[str, Any], Vocabulary, str]":
    """The graph of a model, unchecked; what is known of the right one: description and labels."""
    from metasd.compressed import CompressedModel
    from metasd.data.load import load_source
    from metasd.data.restriction import restricted
    from metasd.data.vocabulary import Vocabulary

    if not isinstance(model, CompressedModel):
        from metasd.training.run import RunFolder

        folder = RunFolder(model.path)
        data = folder.find_graph(data_dir, graph)
        return data, folder.graph_description(), model.vocabulary, str(model.path)
    about = model.about.get("graph", {})
    name, source = about.get("name", ""), about.get("source") or {}
    if graph is None and not source and (not name or Path(name).name != name):
        raise InputError("the model does not name the graph that it is of: give --graph")
    try:
        data = load_source(source, name, data_dir, graph)
    except InputError as error:
        hint = "" if graph else "; say by --graph where the graph of the model is now"
        raise InputError(f"{error}{hint}") from None
    entities, relations = list(model.entity_labels), list(model.relation_labels)
    vocabulary = Vocabulary(entities=entities, relations=relations)
    imported = model.about.get("imported")
    if isinstance(imported, dict) and imported.get("left_out"):
        data, _ = restricted(data, vocabulary)
    return data, about, vocabulary, "the model"
