"""The commands `compress`, `export` and `push`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metasd.errors import InputError

from .options import DataDir, GraphName, Json, ModelPath, load_compressed, load_model, load_run
from .output import print_record

if TYPE_CHECKING:
    from metasd.compressed import CompressedModel
    from metasd.data.graph import Graph

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an older result of this command.")
]
CODECS = "sparse, column, fp32, fp16, bf16, int8, int4, int3, int2 or ternary"


def compress(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder, or the tables that --from reads."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The folder of the compressed model.",
            show_default="RUN/model; with --from, RUN-compressed",
        ),
    ] = None,
    codec: Annotated[str, typer.Option(help=f"{CODECS}; auto: what fits the model.")] = "auto",
    weight_format: Annotated[
        str,
        typer.Option(
            help="With sparse or column: fp32, fp16, bf16 or int8; column also int4, int3, int2 "
            "or ternary; auto: fp16, or what the model was trained with."
        ),
    ] = "auto",
    source: Annotated[
        bool, typer.Option("--source", help="Compress the source model instead.")
    ] = False,
    no_known: Annotated[
        bool, typer.Option("--no-known", help="Store no triples: answers may be known ones.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit the softmax's temperature on valid.")
    ] = False,
    overwrite: Overwrite = False,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Read tables trained elsewhere: pykeen, kbc or npy."),
    ] = None,
    scoring: Annotated[
        str, typer.Option(help="With --from: complex, distmult, cp or rescal.")
    ] = "complex",
    epochs: Annotated[
        int, typer.Option(help="With --from and --graph: epochs of MetaSD before compression.")
    ] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="With --epochs: a setting; repeatable."),
    ] = None,
    graph: GraphName = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a compressed model, which answers without PyTorch."""
    from metasd.compressed.description import readable
    from metasd.compressed.storage import check_out
    from metasd.data.load import load_graph
    from metasd.export.encode import check_formats

    if out is None:
        out = run / "model" if from_ is None else _beside(run, "compressed")
    check_out(out, overwrite)
    check_formats(codec, weight_format)
    chosen = (codec, weight_format)
    if from_ is None:
        small = _of_run(run, chosen, source, calibrate, not no_known, graph, data_dir)
    else:
        if source or (set_ and not epochs):
            raise InputError("--from goes without --source, and with --set only beside --epochs")
        data = load_graph(graph, data_dir) if graph is not None else None
        found = (from_, run, scoring)
        small = _of_tables(found, chosen, data, epochs, set_ or [], calibrate, not no_known)
    small.save_pretrained(out, overwrite=overwrite)
    info = small.info()
    print_record({"folder": str(out), **(info if as_json else readable(info))}, as_json)


def _of_run(
    path: Path,
    chosen: tuple[str, str],
    source: bool,
    calibrate: bool,
    known: bool,
    graph: str | None,
    data_dir: Path | None,
) -> "CompressedModel":
    from metasd.export.compress import compress as compress_model
    from metasd.export.compress import size_notes

    run = load_run(path)
    data = run.graph(data_dir, graph) if calibrate or known else None
    small = compress_model(run, *chosen, source=source, graph=data, known=known)
    if chosen != ("auto", "auto"):
        _print_notes(size_notes(small, run, source))
    return small.calibrated(data.valid) if calibrate and data is not None else small


def _of_tables(
    found: tuple[str, Path, str],
    chosen: tuple[str, str],
    graph: "Graph | None",
    epochs: int,
    settings: list[str],
    calibrate: bool,
    known: bool,
) -> "CompressedModel":
    from metasd.export.compress import size_notes
    from metasd.export.external import import_tables

    small = import_tables(
        *found, *chosen, graph, epochs, settings, known=known, calibrate=calibrate
    )
    _print_notes(size_notes(small, None, True))
    if left_out := small.about["imported"].get("left_out"):
        _print_notes([f"{left_out:,} triples left out: the tables lack an entity or the relation"])
    return small


def export(
    model: ModelPath,
    file_format: Annotated[
        str,
        typer.Option("--format", help="npy, parquet, word2vec, word2vec-binary or faiss."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder to write.", show_default="MODEL-FORMAT"),
    ] = None,
    source: Annotated[bool, typer.Option("--source", help="Export a run's source model.")] = False,
    index: Annotated[
        str, typer.Option("--index", help="With faiss: the factory string, such as IVF64,Flat.")
    ] = "Flat",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a model's tables in the format of another program."""
    from metasd.compressed import CompressedModel
    from metasd.export.formats import check_export
    from metasd.export.formats import export as export_model

    out = out or _beside(model, file_format)
    check_export(file_format, out, overwrite)
    if index != "Flat" and file_format != "faiss":
        raise InputError("--index goes with --format faiss")
    found = load_model(model)
    if isinstance(found, CompressedModel):
        if source:
            raise InputError("--source is for run folders: a compressed model is one model")
    else:
        found = found.answering(source=source, known=False)
    record = export_model(found, file_format, out, index=index, overwrite=overwrite)
    print_record(record, as_json)


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder of `metasd compress`.")],
    repo_id: Annotated[str, typer.Argument(metavar="USER/NAME", help="The name on the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository a private one.")
    ] = False,
) -> None:
    """Upload a compressed model to the Hugging Face Hub."""
    small = load_compressed(model)
    if small is None:
        raise InputError(f"{model} is no compressed model; `metasd compress RUN` makes one")
    print(small.push_to_hub(repo_id, private=private))


def _beside(path: Path, what: str) -> Path:
    """The name of a folder beside `path`: `tables`, or `model.pt`, become `model-<what>`."""
    path = path if path.name not in ("", "..") else path.resolve()
    return path.with_name(f"{path.stem if path.is_file() else path.name}-{what}")


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
