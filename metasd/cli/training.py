"""The commands `train` and `resume`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metasd import errors

from .options import (
    Columns,
    DataDir,
    GraphName,
    Header,
    Json,
    Replicas,
    RunPath,
    Shards,
    SplitRatios,
    parse_split_ratios,
)
from .output import fail, print_json, print_metrics, print_notes, print_record

if TYPE_CHECKING:
    from metasd.config import Config
    from metasd.data.graph import Graph
    from metasd.distributed import ProcessGrid
    from metasd.training.run import Run
    from metasd.training.warm_start import WarmStart

ContinueFrom = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Continue from a run or compressed model of an earlier state of the graph.",
    ),
]

Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Settings to start from: default, metasd, wn18rr, fb15k-237-paper or wn18rr-paper.",
        show_default="default; with --from, the old run's",
    ),
]

Size = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What the compact model's tables may take: a share of the source's, 1/20, or 3MB.",
        show_default="three bits per weight",
    ),
]

Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Time for choosing what is not set: 90s, 1m30s, 10m, 1h; 0: by rules alone.",
        show_default="somewhat less than the training",
    ),
]


def train(
    graph: Annotated[
        str,
        typer.Argument(
            metavar="GRAPH",
            help="A folder or file of triples, or a name (see `metasd datasets`).",
            show_default="families, a generated graph",
        ),
    ] = "families",
    preset: Preset = None,
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
            help="The run folder; it must not exist yet.",
            show_default="runs/<graph>-<n>",
        ),
    ] = None,
    from_: ContinueFrom = None,
    size: Size = None,
    budget: Budget = None,
    data_dir: DataDir = None,
    columns: Columns = "hrt",
    split_ratios: SplitRatios = None,
    header: Header = None,
    shards: Shards = None,
    replicas: Replicas = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print sizes, memory and steps; train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a source and a compact model and evaluate both."""
    from metasd.data.load import load_graph
    from metasd.environment import training_device
    from metasd.training import trainer
    from metasd.training.estimate import estimate, timing
    from metasd.training.run import RunFolder, free_run_dir
    from metasd.training.tune import by_rules
    from metasd.training.warm_start import WarmStart, check_sources

    start = WarmStart.load(from_) if from_ is not None else None
    settings = _settings(preset, config, set_ or [], start, size, budget)
    if run is not None and not dry_run:
        RunFolder(run).check_new()
    training_device(settings.train.device)
    ratios = parse_split_ratios(graph, split_ratios, data_dir)
    data = load_graph(graph, data_dir, columns=columns, split_ratios=ratios, header=header)
    if start is not None:
        start.check(settings, data)
    settings = by_rules(data, settings)
    if dry_run:
        check_sources(settings, data)
        record = {**estimate(data, settings), "seconds, about": timing(data, settings)}
        if settings.compact.size is not None:
            record["compact model"] = {"of " + settings.compact.size: _compact(settings)}
        _print_estimate(data, record, as_json)
        return
    path = run if run is not None else free_run_dir(data)
    processes = _processes(shards, replicas)
    if not as_json and processes.is_main:
        _describe(data, path, start)
        _note_idle(settings, set_ or [])
        if processes.shards == processes.replicas == 1:
            _announce(settings, timing(data, settings))
    _train(
        lambda: trainer.train(data, settings, path, continue_from=start, processes=processes),
        path,
        as_json,
    )


def resume(
    run: RunPath,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting that may change within a run, such as train.epochs=50; repeatable.",
        ),
    ] = None,
    graph: GraphName = None,
    data_dir: DataDir = None,
    shards: Shards = None,
    replicas: Replicas = 1,
    as_json: Json = False,
) -> None:
    """Continue an interrupted run exactly where it stopped."""
    from metasd.training import trainer

    processes = _processes(shards, replicas)
    if not as_json:
        _describe_state(run, set_ or [])
    _train(
        lambda: trainer.resume(run, set_ or [], graph, data_dir, processes=processes), run, as_json
    )


def _settings(
    preset: str | None,
    file: Path | None,
    settings: list[str],
    start: "WarmStart | None",
    size: str | None,
    budget: str | None,
) -> "Config":
    from metasd.config import Config
    from metasd.config import preset as preset_of

    config = start.config if start and preset is None else preset_of(preset or "default")
    if file is not None:
        config = config.override(Config.read(file))
    config = config.override(settings)
    if size is not None:
        config = config.override({"compact.size": size})
    return config if budget is None else config.override({"tune.budget": budget})


def _print_estimate(graph: "Graph", record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_record({**record, "notes": list(graph.notes)}, as_json)
        return
    print_record(record)
    print_notes(graph)


def _announce(config: "Config", seconds: dict[str, float]) -> None:
    """How long the run will take, and what is chosen in it."""
    from metasd.training.progress import duration
    from metasd.training.tune import listed

    search = (
        f", {duration(seconds['search'])} of it to choose settings" if seconds["search"] else ""
    )
    print(f"about {duration(seconds['total'])} on this machine{search}")
    if config.compact.size is not None:
        print(f"compact model of {config.compact.size}: {_compact(config)}")
    if config.tune.settings:
        by = "first guess" if search else "chosen by rules"
        print(f"{by}: {listed(config, config.tune.settings)}", flush=True)


def _compact(config: "Config") -> str:
    """What follows from `compact.size`."""
    kept, compact = 1 - config.prune.fraction, config.compact
    return (
        f"{compact.weight_format}, relations {compact.relation_format}, "
        f"{kept:.0%} of the coordinates"
    )


_IDLE = {
    "dense": ("compact.", "distill.", "prune."),
    "compact": ("distill.",),
    "distill": ("distill.meta_lr", "distill.inner_lr", "distill.quiz_"),
}
"""By objective, the settings that it does not read."""


def _note_idle(config: "Config", settings: list[str]) -> None:
    """Says which of the given settings (`KEY=VALUE`) have no effect."""
    objective = config.train.objective
    keys = [setting.partition("=")[0].strip() for setting in settings]
    for key in keys:
        if key.startswith(_IDLE.get(objective, ())):
            print(f"note: {key} has no effect with train.objective={objective}")


def _processes(shards: int | None, replicas: int) -> "ProcessGrid":
    """This process's place among those of torchrun; only the first one prints."""
    from metasd import distributed

    processes = distributed.start(replicas, shards)
    if not processes.is_main:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return processes


def _train(start: "Callable[[], Run]", path: Path, as_json: bool) -> None:
    """Trains to the end, or says in one line how to continue."""
    from metasd import distributed
    from metasd.kernels import CollectiveError
    from metasd.training.stop_signal import Interrupted

    try:
        finished = start()
        distributed.stop()
    except Interrupted as stopped:
        distributed.stop()
        fail(f"{stopped}; continue with `metasd resume {path}`", errors.exit_code())
    except (KeyboardInterrupt, CollectiveError) as error:
        begun = (path / "config.yaml").exists()
        hint = f"; continue with `metasd resume {path}`" * begun
        if isinstance(error, CollectiveError):
            fail(f"{error}{hint}", 1)
        fail(f"interrupted{hint}", errors.exit_code())
    if as_json:
        print_json(finished.metrics)
        return
    print_metrics(finished.metrics)
    if finished.model.masks is None and finished.config.train.objective != "dense":
        alone = finished.config.warmup_epochs
        print(f"note: no compact model yet: in the first {alone} epochs the source learns alone")
    elif finished.config.warmup_epochs == finished.config.train.epochs > 0:
        print("note: no epoch was left for the compact model: it is the source's weights, rounded")
    print(f"run folder: {finished.path}")


def _describe_state(run: Path, settings: list[str]) -> None:
    """The graph of a run, and the epoch that it has reached."""
    from metasd.config import Config
    from metasd.training.run import RunFolder

    folder = RunFolder(run)
    folder.require()
    epochs = Config.load(folder.config).override(settings).train.epochs
    graph, done = folder.graph_description()["name"], len(folder.read_history())
    print(f"{run}: a run on {graph}, {done} of {epochs} epochs done", flush=True)


def _describe(graph: "Graph", path: Path, start: "WarmStart | None") -> None:
    print(
        f"{graph.name}: {graph.num_entities} entities, {graph.num_relations} relations, "
        f"{len(graph.train)} train / {len(graph.valid)} valid / {len(graph.test)} test triples"
    )
    print_notes(graph)
    if start is not None:
        record = start.record(graph)
        for name in ("entities", "relations"):
            kept, new, dropped = record[name].values()
            gone = f", {dropped} are dropped: the graph has them no more" if dropped else ""
            print(f"note: {kept} {name} start from {start.path}, {new} are new{gone}")
        if seen := start.seen(graph):
            print(
                f"note: {seen} valid and test triples were in train there, because the split is "
                "another one: metrics are too good; give the graph a valid and a test file"
            )
    print(f"run folder: {path}", flush=True)
