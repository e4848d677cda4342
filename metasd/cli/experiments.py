"""The commands `report`, `sweep` and `search`."""

from pathlib import Path
from typing import Annotated

import typer

from metasd import errors
from metasd.errors import InputError

from .options import DataDir, load_run
from .output import fail, print_record, print_rows


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or that of a sweep.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the report.", show_default="RUN/report; of a sweep, its own"
        ),
    ] = None,
) -> None:
    """Draw a run's metrics, or a sweep's MRR against bytes."""
    from metasd.compressed.storage import is_compressed
    from metasd.experiments.run_report import write_report
    from metasd.experiments.study_report import write_study_report

    if (run / "results.json").exists():
        print_rows(write_study_report(run, out))
        print((out or run) / "study.md")
        return
    if is_compressed(run):
        raise InputError(
            f"{run} is a compressed model; a report is of a run or a sweep. `metasd info {run}` "
            f"prints sizes and metrics, `metasd evaluate {run}` its accuracy as it is stored"
        )
    if (run / "trials.jsonl").exists():
        raise InputError(
            f"{run} is the folder of a search; a report is of a run or a sweep. "
            f"{run / 'best.yaml'} has the best settings; each of {run / 'trial-*'} is a run"
        )
    print(write_report(load_run(run), out))


def sweep(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A YAML file of runs.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder of the runs.", show_default="runs/STUDY"),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            metavar="RUN",
            help="Add the test metrics of the run whose name begins so; repeatable.",
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Train the runs of a study, and measure MRR and bytes."""
    from metasd.experiments.study import Study
    from metasd.experiments.sweep import run_study
    from metasd.training.stop_signal import Interrupted

    folder = out or Path("runs") / study.stem
    try:
        run_study(Study.load(study), folder, data_dir, test or [])
    except (Interrupted, KeyboardInterrupt) as stopped:
        fail(
            f"{str(stopped) or 'interrupted'}; run the same command to continue",
            errors.exit_code(),
        )
    print(f"results: {folder / 'results.json'}; `metasd report {folder}` draws them")


def search(
    file: Annotated[Path, typer.Argument(metavar="SEARCH", help="A YAML file of ranges.")],
    trials: Annotated[int, typer.Option(help="Trials in all, earlier ones included.", min=1)] = 20,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder of the trials.", show_default="runs/SEARCH"),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Search for the settings with the best valid metric."""
    from metasd.experiments.search import Search, run_search
    from metasd.training.stop_signal import Interrupted

    folder = out or Path("runs") / file.stem
    searched = Search.load(file)
    try:
        best = run_search(searched, folder, trials, data_dir)
    except (Interrupted, KeyboardInterrupt) as stopped:
        fail(
            f"{str(stopped) or 'interrupted'}; run the same command to continue",
            errors.exit_code(),
        )
    metric = searched.config(best["settings"]).eval.metric
    print_record(
        {"best": best["trial"], f"valid {metric}": round(best["value"], 4), **best["settings"]}
    )
    print(
        f"every setting: {folder / 'best.yaml'}; `metasd train {searched.graph} --config "
        f"{folder / 'best.yaml'}` trains with them"
    )
