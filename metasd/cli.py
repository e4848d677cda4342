"""The command line: `metasd train`, `resume`, `evaluate`, `compress`, `predict`, `info`, ..."""

import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from metasd.errors import InputError

if TYPE_CHECKING:
    from metasd import distributed
    from metasd.compressed import CompressedModel
    from metasd.data.graph import Graph
    from metasd.training.run import Run

app = typer.Typer(
    help="Knowledge-graph embeddings: train a dense source model and a compact one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where graphs are looked up by name (also: METASD_DATA)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="Where it scores: cpu, or a GPU such as cuda.")]
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # labels might steer a terminal
_RATIOS = "0.9,0.05,0.05"
Shards = Annotated[
    int | None,
    typer.Option(
        help="Blocks of entities, each of a process that torchrun has started.",
        show_default="as many as there are processes for each replica",
    ),
]
Replicas = Annotated[int, typer.Option(help="Copies of the blocks, which share each batch.")]
Columns = Annotated[str, typer.Option(help="The order of head, relation and tail in the files.")]
SplitRatios = Annotated[
    str | None,
    typer.Option(
        "--split-ratios",
        help="Shares of train, valid and test when GRAPH is a single file.",
        show_default=_RATIOS,
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run folder, or one of `metasd compress`.")
]
GraphName = Annotated[
    str | None,
    typer.Option("--graph", help="The graph, if it is not where the run found it."),
]


def main() -> None:
    """Runs the command line; a mistake in the input is one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a label is never worth a crash
        sys.stdout.reconfigure(errors="replace")
    try:
        app()
    except InputError as error:
        _stop(str(error), 2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "metasd":
            raise
        _stop(f"{error.name} is not installed, and this command needs it", 2)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        _stop("not enough memory; `metasd train --dry-run` says what a configuration needs", 2)
    except OSError as error:
        _stop(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 2)
    except KeyboardInterrupt:
        _stop("interrupted", 130)


def _stop(message: str, code: int) -> None:
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    who = f"metasd, rank {os.environ.get('RANK')}" if several else "metasd"
    print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


@app.command()
def train(
    graph: Annotated[
        str,
        typer.Argument(
            metavar="[GRAPH]",
            help="A folder or file of triples, or a name (see `metasd datasets`).",
            show_default="families, a generated graph",
        ),
    ] = "families",
    preset: Annotated[
        str, typer.Option(help="default, metasd, fb15k-237-paper or wn18rr-paper.")
    ] = "default",
    config: Annotated[
        Path | None, typer.Option(help="A YAML file of settings, on top of the preset.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, on top of both; repeatable."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            "--run-dir",  # torchrun takes --run for an option of its own
            help="The run folder.",
            show_default="runs/<graph>-<n>",
        ),
    ] = None,
    data_dir: DataDir = None,
    columns: Columns = "hrt",
    split_ratios: SplitRatios = None,
    shards: Shards = None,
    replicas: Replicas = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train a source and a compact model, and evaluate both."""
    from metasd.config import Config
    from metasd.config import preset as preset_of
    from metasd.data.load import load_graph
    from metasd.environment import training_device
    from metasd.training import trainer
    from metasd.training.estimate import estimate
    from metasd.training.run import RunFolder

    settings = preset_of(preset)
    if config is not None:
        settings = settings.override(Config.read(config))
    settings = settings.override(set_ or [])
    if run is not None and not dry_run:
        RunFolder(run).check_new()
    training_device(settings.train.device)
    data = load_graph(
        graph, data_dir, columns=columns, split_ratios=_ratios_of(graph, split_ratios)
    )
    if dry_run:
        trainer.check_source(settings, data)
        _print_record(estimate(data, settings), as_json)
        return
    path = run if run is not None else trainer.free_run_dir(data)
    place = _place(shards, replicas)
    if not as_json:
        _describe(data, path)
    _train(lambda: trainer.train(data, settings, path, processes=place), path, as_json)


@app.command()
def resume(
    run: RunPath,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Such as train.epochs=50; repeatable."),
    ] = None,
    graph: GraphName = None,
    data_dir: DataDir = None,
    shards: Shards = None,
    replicas: Replicas = 1,
    as_json: Json = False,
) -> None:
    """Continue an interrupted run, to the same weights as if it had never stopped."""
    from metasd.training import trainer

    place = _place(shards, replicas)
    _train(lambda: trainer.resume(run, set_ or [], graph, data_dir, processes=place), run, as_json)


@app.command()
def evaluate(
    run: ModelPath,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    graph: GraphName = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Filtered ranking metrics on a split: of a run's source and compact model, or of a compressed one."""
    from metasd.evaluation import FREQUENCIES
    from metasd.evaluation import evaluate as evaluate_model
    from metasd.experiments.run_report import summary_rows

    small = _load_compressed(run)
    models: tuple[str, ...]
    if small is not None:
        data = _graph_of(small, graph, data_dir)
        models = ("compressed",)
        found = {split: {"compressed": evaluate_model(small, data, split)}}
    else:
        loaded = _load(run)
        data = loaded.graph(data_dir, graph)
        views = loaded.model.views
        models = tuple(views)
        found = {split: {name: evaluate_model(view, data, split) for name, view in views.items()}}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    _print_rows(summary_rows(found))
    rows = [["relations", *(f"{name} MRR" for name in models)]]
    for third in FREQUENCIES:
        values = [found[split][name]["by_frequency"][third] for name in models]
        if values[0]["ranks"]:
            rows.append(
                [f"{third} ({values[0]['relations']})", *(f"{v['mrr']:.4f}" for v in values)]
            )
    _print_rows(rows)


@app.command()
def compress(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or tables to be read by --from.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of the compressed model.")],
    codec: Annotated[
        str,
        typer.Option(
            help="sparse, column, int8, int4, int3, int2 or ternary; auto: what fits the model."
        ),
    ] = "auto",
    weight_format: Annotated[
        str,
        typer.Option(
            help="Of sparse, column: fp32, fp16, bf16, int8; column: int4, int3, int2, ternary."
        ),
    ] = "auto",
    source: Annotated[bool, typer.Option("--source", help="The source model's tables.")] = False,
    no_known: Annotated[
        bool, typer.Option("--no-known", help="Keep no triples: answers may be known ones.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit the softmax's temperature on valid.")
    ] = False,
    from_: Annotated[
        str | None, typer.Option("--from", help="pykeen, kbc or npy: tables trained elsewhere.")
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
    """Write a small model that answers fast, needs no PyTorch, and is a folder of plain arrays."""
    from metasd.data.load import load_graph
    from metasd.export.compress import compress as compress_model

    if from_ is not None:
        from metasd.export.external import import_tables

        if source or (set_ and not epochs):
            raise InputError("--from goes without --source, and with --set only beside --epochs")
        data = load_graph(graph, data_dir) if graph is not None else None
        small = import_tables(
            from_, run, scoring, codec, weight_format, data, epochs, set_ or [], known=not no_known
        )
    else:
        loaded = _load(run)
        needed = calibrate or not no_known
        data = loaded.graph(data_dir, graph) if needed else None
        small = compress_model(
            loaded,
            codec,
            weight_format,
            source=source,
            graph=data,
            known=not no_known,
        )
    if calibrate:
        if data is None:
            raise InputError("--calibrate needs valid triples: give --graph")
        small = small.calibrated(data.valid)
    small.save_pretrained(out)
    _print_record({"folder": str(out), **small.info()}, as_json)


@app.command()
def predict(
    model: ModelPath,
    relation: Annotated[
        str | None, typer.Option("--relation", "-r", help="A relation's label.")
    ] = None,
    head: Annotated[str | None, typer.Option("--head", help="Ask for tails of this head.")] = None,
    tail: Annotated[str | None, typer.Option("--tail", help="Ask for heads of this tail.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many answers.")] = 10,
    among: Annotated[
        list[str] | None, typer.Option("--among", help="An entity to choose from; repeatable.")
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option("--batch", help="Questions: lines of head, relation, tail, one of them ?."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="With --batch: the answers.")] = None,
    source: Annotated[bool, typer.Option("--source", help="Ask a run's source model.")] = False,
    keep_known: Annotated[
        bool, typer.Option("--keep-known", help="Do not leave out triples of the graph.")
    ] = False,
    graph: GraphName = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """The entities that complete (head, relation, ?) or (?, relation, tail) best."""
    from metasd.compressed import Query

    small = _load_compressed(model)
    if small is None:
        loaded = _load(model)
        data = None if keep_known else loaded.graph(data_dir, graph)
        small = loaded.answering(source=source, keep_known=keep_known, graph=data)
    elif source:
        raise InputError("--source is for run folders: a compressed model is one model")
    if device != "cpu":
        small = small.to(device)
    if (batch is None) != (out is None):
        raise InputError("--batch and --out go together")
    if batch is not None and (among or as_json or relation or head or tail):
        raise InputError("--batch goes without --among, --json, --head, --tail and --relation")
    if batch is not None and out is not None:
        _answer_file(small, batch, out, k, keep_known)
        return
    answers = small.answers(
        [Query(head, relation or "", tail)], k, candidates=among, keep_known=keep_known
    )[0]
    if len(answers) > 1 and answers[0].score == answers[-1].score:
        print(
            "note: all of these have the same score, so their order means nothing; the model is "
            "too small or too little trained (of a run, --source asks the source)",
            file=sys.stderr,
        )
    if as_json:
        print(json.dumps([answer._asdict() for answer in answers], indent=1))
        return
    _print_rows(
        [["rank", "entity", "score", "probability"]]
        + [
            [str(i), answer.label, f"{answer.score:.3f}", f"{answer.probability:.4f}"]
            for i, answer in enumerate(answers, 1)
        ]
    )


@app.command()
def sweep(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A YAML file of runs.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Its folder.", show_default="runs/STUDY")
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option("--test", metavar="RUN", help="A run whose test metrics to add; repeatable."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Train a study's runs, or what is left of them, and judge each by its bytes."""
    from metasd.experiments.study import Study, run_study
    from metasd.training.trainer import Interrupted

    folder = out or Path("runs") / study.stem
    try:
        run_study(Study.load(study), folder, data_dir, test or [])
    except (Interrupted, KeyboardInterrupt) as stopped:
        _stop(f"{str(stopped) or 'interrupted'}; the same command goes on", 130)
    print(f"results: {folder / 'results.json'}; `metasd report {folder}` draws them")


@app.command()
def search(
    file: Annotated[Path, typer.Argument(metavar="SEARCH", help="A YAML file of ranges.")],
    trials: Annotated[int, typer.Option(help="How many in all.", min=1)] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", help="Its folder.", show_default="runs/SEARCH")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Look for the settings with the best valid metric."""
    from metasd.experiments.search import Search, run_search
    from metasd.training.trainer import Interrupted

    folder = out or Path("runs") / file.stem
    try:
        best = run_search(Search.load(file), folder, trials, data_dir)
    except (Interrupted, KeyboardInterrupt) as stopped:
        _stop(f"{str(stopped) or 'interrupted'}; the same command goes on", 130)
    _print_record({"best": best["value"], **best["settings"]}, False)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of a sweep.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder.", show_default="RUN/report; a sweep's own")
    ] = None,
) -> None:
    """Draw a run: curves, the long tail, every relation. Of a sweep: MRR against bytes."""
    from metasd.experiments.run_report import write_report
    from metasd.experiments.study_report import write_study_report

    if (run / "results.json").exists():
        _print_rows(write_study_report(run, out))
        print((out or run) / "study.md")
        return
    print(write_report(_load(run), out))


@app.command()
def info(run: ModelPath, as_json: Json = False) -> None:
    """What a model is: sizes, density, and how well it did."""
    if (small := _load_compressed(run)) is not None:
        metrics = small.about.get("metrics") or {}
        if as_json:
            print(json.dumps({**small.info(), "metrics": metrics}, indent=1))
            return
        _print_record(small.info(), as_json)
        if metrics:
            from metasd.experiments.run_report import summary_rows

            print("before compression:")
            _print_rows(summary_rows(metrics))
        return
    loaded = _load(run)
    model = loaded.model
    weights = model.entities.numel() + model.relations.numel()
    record: dict[str, Any] = {
        "model": f"{model.scoring.name}, rank {model.scoring.rank}",
        "entities": model.num_entities,
        "relations": model.num_relations,
        "weights": weights,
        "density of the compact model": round(model.density(), 6) if model.masks else None,
        "weight format of the compact model": model.weight_format if model.masks else None,
        "bytes of dense fp32 tables": 4 * weights,
        "epochs": len(loaded.history),
        "finished": bool(loaded.metrics)
        and loaded.metrics["protocol"]["epochs"] >= len(loaded.history),
    }
    if as_json:
        print(json.dumps({**record, "metrics": loaded.metrics}, indent=1))
        return
    _print_record(record, as_json)
    if loaded.metrics:
        _print_metrics(loaded.metrics)


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder of `metasd compress`.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    max_batch: Annotated[int, typer.Option(min=1, help="Questions in a request.")] = 256,
    max_k: Annotated[int, typer.Option(min=1, help="Answers to a question.")] = 100,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request's body.")] = 256 * 1024,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Requests that may wait for an answer; more get a 503.")
    ] = 64,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that score.", show_default="as many as processors"),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Answer questions over HTTP, and on a page for people at /."""
    small = _load_compressed(model)
    if small is None:
        raise InputError(
            f"{model} is no compressed model; `metasd compress RUN --out DIR` makes one"
        )
    if device != "cpu":
        small = small.to(device)
    try:
        from metasd.service import Limits
        from metasd.service import serve as serve_model
    except ModuleNotFoundError as error:
        raise InputError(f'{error.name} is not installed: pip install "metasd[serve]"') from None
    limits = Limits(max_batch, max_k, max_body, concurrency=concurrency)
    serve_model(small, host, port, limits if threads is None else replace(limits, threads=threads))


@app.command()
def prepare(
    graph: Annotated[
        str,
        typer.Argument(metavar="GRAPH", help="A folder or file of triples, or a name."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of the prepared graph.")],
    data_dir: DataDir = None,
    columns: Columns = "hrt",
    split_ratios: SplitRatios = None,
    seed: Annotated[
        int, typer.Option(help="For splitting a single file, and for a generated graph.")
    ] = 0,
    memory: Annotated[int, typer.Option(min=1, help="MiB for sorting.")] = 1024,
    as_json: Json = False,
) -> None:
    """Write a graph of any size into a folder that is mapped into memory instead of read."""
    from metasd.data.graph import SPLITS
    from metasd.data.store import prepare as prepare_graph

    ratios = _ratios_of(graph, split_ratios)
    made = prepare_graph(
        graph, out, data_dir, columns=columns, split_ratios=ratios, seed=seed, memory=memory << 20
    )
    record: dict[str, Any] = {
        "folder": str(out),
        "graph": made.name,
        "entities": made.num_entities,
        "relations": made.num_relations,
        **{f"{name} triples": len(made.split(name)) for name in SPLITS},
        "digest": made.digest,
        "notes": list(made.notes),
    }
    _print_record(
        record if as_json else {**record, "notes": "; ".join(made.notes) or None}, as_json
    )


@app.command()
def datasets(data_dir: DataDir = None, as_json: Json = False) -> None:
    """The graphs that can be named."""
    from metasd.data.sources import known_graphs

    found = known_graphs(data_dir)
    if as_json:
        print(json.dumps([graph._asdict() for graph in found], indent=1))
    else:
        _print_rows([["graph", "from", ""], *([*graph] for graph in found)])


@app.command()
def env(as_json: Json = False) -> None:
    """What is installed, what was compiled, and what the machine offers."""
    from metasd.environment import environment

    _print_record(environment(), as_json)


def _place(shards: int | None, replicas: int) -> "distributed.ProcessGrid":
    """This process's among those of torchrun; only the first prints."""
    from metasd import distributed

    place = distributed.start(replicas, shards)
    if not place.is_main:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return place


def _train(start: Any, path: Path, as_json: bool) -> None:
    from metasd import distributed
    from metasd.kernels import CollectiveError
    from metasd.training.trainer import Interrupted

    try:
        finished: Run = start()
        distributed.stop()
    except Interrupted as stopped:
        distributed.stop()
        _stop(f"{stopped}; continue with `metasd resume {path}`", 130)
    except (KeyboardInterrupt, CollectiveError) as error:
        begun = (path / "config.yaml").exists()
        hint = f"; continue with `metasd resume {path}`" * begun
        if isinstance(error, CollectiveError):
            _stop(f"{error}{hint}", 1)
        _stop(f"interrupted{hint}", 130)
    if as_json:
        print(json.dumps(finished.metrics, indent=1))
        return
    _print_metrics(finished.metrics)
    if finished.model.masks is None and finished.config.train.objective != "dense":
        alone = finished.config.warmup_epochs
        print(f"note: no compact model yet: in the first {alone} epochs the source learns alone")
    print(f"run folder: {finished.path}")


def _print_metrics(metrics: dict[str, Any]) -> None:
    from metasd.experiments.run_report import summary_rows

    header, *rows = summary_rows(metrics)
    if not rows:
        print("nothing to evaluate: the graph has no valid and no test triples")
        return
    _print_rows([header, *rows])
    protocol = metrics["protocol"]
    print(
        f"after epoch {protocol['best_epoch']} of {protocol['epochs']} "
        f"(chosen by: {protocol['chosen_by']})"
    )


def _describe(graph: "Graph", path: Path) -> None:
    print(
        f"{graph.name}: {graph.num_entities} entities, {graph.num_relations} relations, "
        f"{len(graph.train)} train / {len(graph.valid)} valid / {len(graph.test)} test triples"
    )
    for note in graph.notes:
        print(f"note: {note}")
    if graph.unseen["test"] or graph.unseen["valid"]:
        print(
            f"note: {graph.unseen['valid']} valid and {graph.unseen['test']} test triples have an "
            "entity or relation that train never shows; they count"
        )
    print(f"run folder: {path}", flush=True)


def _load(path: Path) -> "Run":
    from metasd.training.run import Run

    return Run.load(path)


def _load_compressed(path: Path) -> "CompressedModel | None":
    """The compressed model in a folder, or None where the folder says to be something else."""
    from metasd.compressed import CompressedModel
    from metasd.compressed.storage import is_compressed

    return CompressedModel.from_pretrained(path) if is_compressed(path) else None


def _graph_of(small: "CompressedModel", graph: str | None, data_dir: Path | None) -> "Graph":
    """The graph that a compressed model was trained on; another one is refused."""
    from metasd.data.load import load_graph

    about = small.about.get("graph", {})
    name = graph or about.get("name")
    if name is None or (graph is None and Path(name).name != name):
        raise InputError("the model does not name the graph that it is of: give --graph")
    data = load_graph(name, data_dir)
    if about and data.digest != about.get("digest"):
        raise InputError(f"the model was trained on another graph than {name}: give --graph")
    return data


def _answer_file(
    small: "CompressedModel", batch: Path, out: Path, k: int, keep_known: bool
) -> None:
    from rich.progress import Progress

    from metasd.compressed import answer_file

    console = Console(file=sys.stderr)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task("questions", total=None)

        def progress(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        count = answer_file(small, batch, out, k, keep_known=keep_known, progress=progress)
    print(f"{count} questions answered: {out}")


def _ratios_of(graph: str, text: str | None) -> tuple[float, float, float]:
    """The shares of a graph's splits, as --split-ratios says or by default."""
    try:
        train, valid, test = (float(part) for part in (text or _RATIOS).split(","))
    except ValueError:
        raise InputError(
            f"--split-ratios takes three shares such as 0.9,0.05,0.05; got {text}"
        ) from None
    if text is not None and not Path(graph).is_file():
        raise InputError(f"--split-ratios is for a graph in a single file; got {graph}")
    return train, valid, test


def _print_record(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(record, indent=1))
        return
    rows = []
    for key, value in record.items():
        for name, part in value.items() if isinstance(value, dict) else [("", value)]:
            shown = part
            if isinstance(part, int) and not isinstance(part, bool):
                shown = f"{part:,}" + (f" ({part / 1e6:,.1f} MB)" if "bytes" in key else "")
            rows.append([f"{key} {name}".strip(), "-" if part is None else str(shown)])
    _print_rows([["", ""], *rows])


def _print_rows(rows: list[list[str]]) -> None:
    """A table without frames; the first row is the header."""
    header, *body = rows
    table = Table(box=None, show_header=any(header), header_style="bold", pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "default", overflow="fold")
    for row in body:
        table.add_row(*(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(cell)) for cell in row))
    Console(
        soft_wrap=sys.stdout is None or not sys.stdout.isatty(), highlight=False, markup=False
    ).print(table)
