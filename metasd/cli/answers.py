"""The commands that ask a model: `predict`, `score` and `neighbors`."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from metasd.errors import InputError

from .options import (
    Columns,
    DataDir,
    Device,
    Header,
    Json,
    KnownGraph,
    ModelPath,
    known_graph,
    load_model,
)
from .output import note, print_json, print_rows

if TYPE_CHECKING:
    from metasd.compressed import Answers, CompressedModel
    from metasd.compressed.query_files import Answered

_NAMED = 3  # hidden known answers that are named; others are counted
Source = Annotated[bool, typer.Option("--source", help="Ask a run's source model.")]
KeepKnown = Annotated[
    bool, typer.Option("--keep-known", help="Show and mark known answers, which the graph has.")
]
Out = Annotated[str, typer.Option("--out", metavar="FILE", help="The file to write; -: print.")]


def predict(
    model: ModelPath,
    relation: Annotated[
        str | None, typer.Option("--relation", "-r", help="The relation's label.")
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="The head's label: tails are predicted.")
    ] = None,
    tail: Annotated[
        str | None, typer.Option("--tail", help="The tail's label: heads are predicted.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="The number of answers.")] = 10,
    among: Annotated[
        list[str] | None,
        typer.Option("--among", help="An entity to choose from, known or not; repeatable."),
    ] = None,
    typed: Annotated[
        bool,
        typer.Option(
            "--typed", help="Choose from the entities that known triples have in that place."
        ),
    ] = False,
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch",
            metavar="FILE",
            help="Queries: a file as of a graph, but with ? for what is asked; -: standard input.",
        ),
    ] = None,
    out: Out = "-",
    source: Source = False,
    keep_known: KeepKnown = False,
    columns: Columns = "hrt",
    header: Header = None,
    graph: KnownGraph = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Complete (head, relation, ?) or (?, relation, tail)."""
    if batch is not None and (among or relation or head or tail):
        raise InputError("--batch goes without --among, --head, --tail and --relation")
    if batch is None and out != "-":
        raise InputError("--out is for --batch")
    only_marks = (keep_known or bool(among)) and not typed and graph is None
    small = _load(model, source, graph, data_dir, device, known=True, optional=only_marks)
    if batch is not None:
        from metasd.compressed import answer_file

        answer = partial(answer_file, small, batch, out, k, typed=typed, keep_known=keep_known)
        _answer_file(partial(answer, as_json=as_json, columns=columns, header=header), out)
        return
    from metasd.compressed import Query

    answers = small.answers(
        [Query(head, relation or "", tail)],
        k,
        candidates=among,
        typed=typed,
        keep_known=keep_known,
    )[0]
    if as_json:
        print_json([answer._asdict() for answer in answers])
    else:
        _print_answers(answers, marked=keep_known or bool(among))
    if len(answers) > 1 and answers[0].score == answers[-1].score:
        note(
            "all of these have the same score, so their order means nothing; the model is too "
            "small or too little trained (of a run, --source asks the source)"
        )
    if answers.num_hidden:
        names = [answer.label for answer in answers.hidden[:_NAMED]]
        more = answers.num_hidden - len(names)
        _note_hidden(answers.num_hidden, ": " + ", ".join(names) + f" and {more} more" * (more > 0))


def score(
    model: ModelPath,
    triples: Annotated[
        str,
        typer.Argument(
            metavar="TRIPLES", help="A file of triples, as of a graph; -: standard input."
        ),
    ],
    out: Out = "-",
    ranks: Annotated[
        bool,
        typer.Option(
            "--ranks", help="Also the ranks of head and tail among all entities, filtered."
        ),
    ] = False,
    source: Source = False,
    columns: Columns = "hrt",
    header: Header = None,
    graph: KnownGraph = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Score triples: the higher, the more plausible."""
    from metasd.compressed import score_file

    small = _load(model, source, graph, data_dir, device, known=ranks)
    notes: list[str] = []
    layout: dict[str, Any] = {"columns": columns, "header": header, "notes": notes}
    count = score_file(small, triples, out, ranks=ranks, as_json=as_json, **layout)
    for line in notes:
        note(line)
    if out != "-":
        print(f"{count} triples scored: {out}")


def neighbors(
    model: ModelPath,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="The entity's label.")],
    k: Annotated[int, typer.Option("-k", help="The number of neighbors, by cosine.")] = 10,
    source: Source = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Show the entities with the most similar embeddings."""
    small = _load(model, source, None, None, device, known=False)
    found = small.neighbors(label, k)
    if as_json:
        print_json([{"label": name, "cosine": cosine} for name, cosine in found])
        return
    rows = [[str(i), name, f"{cosine:.3f}"] for i, (name, cosine) in enumerate(found, 1)]
    print_rows([["rank", "entity", "cosine"], *rows])


def _load(
    path: Path,
    source: bool,
    graph: str | None,
    data_dir: Path | None,
    device: str,
    *,
    known: bool,
    optional: bool = False,
) -> "CompressedModel":
    """The model of a folder; of a run, with the known triples of its graph if `known`.

    `optional`: where the graph cannot be found, answers are not marked instead.
    """
    from metasd.compressed import CompressedModel

    model, data = load_model(path), None
    of_graph = graph is not None or not isinstance(model, CompressedModel)
    if known and of_graph:
        try:
            data = known_graph(model, graph, data_dir)
        except InputError as error:
            if not optional:
                raise
            note(f"known answers are not marked: {error}")
    if not isinstance(model, CompressedModel):
        from metasd.training.run import NO_COMPACT_MODEL

        if model.within_warmup and not source:
            note(NO_COMPACT_MODEL)
            source = True
        small = model.answering(source=source, known=data is not None, graph=data)
    elif source:
        raise InputError("--source is for run folders: a compressed model is one model")
    else:
        small = model if data is None else replace(model, known=data.packed_known())
    return small if device == "cpu" else small.to(device)


def _print_answers(answers: "Answers", marked: bool) -> None:
    header = ["rank", "entity", "score", "probability", *["known"] * marked]
    rows = [
        [
            str(i),
            answer.label,
            f"{answer.score:.3f}",
            f"{answer.probability:.4f}",
            *["yes" if answer.known else ""] * marked,
        ]
        for i, answer in enumerate(answers, 1)
    ]
    print_rows([header, *rows])


def _note_hidden(count: int, names: str = "") -> None:
    print(
        f"{count:,} known answer{'s' * (count != 1)} hidden{names}; --keep-known shows "
        + ("it" if count == 1 else "them"),
        file=sys.stderr,
    )


def _answer_file(answer: "Callable[..., Answered]", out: str) -> None:
    """Answers a file of queries, with a progress bar on a terminal."""
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    hidden = not console.is_terminal or (out == "-" and sys.stdout.isatty())
    notes: list[str] = []
    with Progress(console=console, disable=hidden, transient=True) as bars:
        task = bars.add_task("queries", total=None)

        def progress(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        found = answer(notes=notes, progress=progress)
    for line in notes:
        note(line)
    if out != "-":
        print(f"{found.queries} queries answered: {out}")
    if found.hidden:
        _note_hidden(found.hidden)
