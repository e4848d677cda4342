"""The commands `evaluate`, `info` and `serve`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metasd.errors import InputError

from .options import (
    DataDir,
    Device,
    GraphName,
    Json,
    ModelPath,
    graph_of,
    load_compressed,
    load_model,
)
from .output import print_json, print_metrics, print_record, print_rows

if TYPE_CHECKING:
    from metasd.compressed import CompressedModel


def evaluate(
    run: ModelPath,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Rank so many of the triples, and add confidence intervals."),
    ] = None,
    graph: GraphName = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Compute filtered ranking metrics on a split."""
    from metasd.compressed import CompressedModel
    from metasd.evaluation import evaluate as evaluate_model
    from metasd.experiments.run_report import summary_rows

    model = load_model(run)
    data = graph_of(model, graph, data_dir)
    views = {"compressed": model} if isinstance(model, CompressedModel) else model.model.views
    found = {name: evaluate_model(view, data, split, sample=sample) for name, view in views.items()}
    if as_json:
        print_json({split: found})
        return
    print_rows(summary_rows({split: found}))
    print_rows(_frequency_rows(found))
    for name, metrics in found.items():
        if ends := metrics.get("interval"):
            low, high = ends["mrr"]
            queries = metrics["queries"]
            print(f"{name}: 95 % of MRR {low:.4f} to {high:.4f}, of {queries} queries")


def _frequency_rows(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """MRR by model for the thirds of the relations that have ranks."""
    from metasd.evaluation import FREQUENCIES

    rows = [["relations", *(f"{name} MRR" for name in found)]]
    for third in FREQUENCIES:
        values = [metrics["by_frequency"][third] for metrics in found.values()]
        if values[0]["ranks"]:
            numbers = (f"{metrics['mrr']:.4f}" for metrics in values)
            rows.append([f"{third} ({values[0]['relations']})", *numbers])
    return rows


def info(run: ModelPath, as_json: Json = False) -> None:
    """Show a model's sizes, density and metrics."""
    from metasd.compressed import CompressedModel

    loaded = load_model(run)
    if isinstance(loaded, CompressedModel):
        _compressed_info(loaded, as_json)
        return
    model, metrics = loaded.model, loaded.metrics
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
        "finished": bool(metrics) and metrics["protocol"]["epochs"] >= len(loaded.history),
    }
    if as_json:
        print_json({**record, "metrics": metrics})
        return
    print_record(record)
    if metrics:
        print_metrics(metrics)


def _compressed_info(small: "CompressedModel", as_json: bool) -> None:
    from metasd.compressed.description import readable
    from metasd.experiments.run_report import summary_rows

    metrics = small.about.get("metrics") or {}
    if as_json:
        print_json({**small.info(), "metrics": metrics})
        return
    print_record(readable(small.info()))
    if metrics:
        print("before compression:")
        print_rows(summary_rows(metrics))


def serve(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder of `metasd compress`.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0: any free one.")
    ] = 8000,
    max_batch: Annotated[int, typer.Option(min=1, help="Queries per request at most.")] = 256,
    max_k: Annotated[int, typer.Option(min=1, help="Answers per query at most.")] = 100,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request's body at most.")] = 256
    * 1024,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Requests that may wait for an answer; others get 503.")
    ] = 64,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that score.", show_default="as many as processors"),
    ] = None,
    device: Device = "cpu",
    max_work: Annotated[
        int,
        typer.Option(min=1, help="Scores (queries x entities) that large requests may wait for."),
    ] = 1 << 28,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Connections at the same time.")
    ] = 1000,
    client_connections: Annotated[
        int, typer.Option(min=1, help="Connections of one address at the same time.")
    ] = 100,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name by which the service may be called, repeatable; * for any.",
            show_default="--host and this machine's own",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with a token that every request must bear.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="A certificate in PEM, for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key in PEM.")] = None,
) -> None:
    """Answer queries over HTTP, with a page for people at /."""
    if (tls_cert is None) != (tls_key is None):
        raise InputError("--tls-cert and --tls-key go together")
    small = load_compressed(model)
    if small is None:
        raise InputError(
            f"{model} is no compressed model; `metasd compress RUN --out DIR` makes one"
        )
    if device != "cpu":
        small = small.to(device)
    try:
        from metasd import service
    except ModuleNotFoundError as error:
        raise InputError(f'{error.name} is not installed: pip install "metasd[serve]"') from None
    limits = service.Limits(max_batch, max_k, max_body, concurrency=concurrency, work=max_work)
    service.serve(
        small,
        host,
        port,
        limits if threads is None else replace(limits, threads=threads),
        service.Access(
            {*service.LOOPBACK, host, *(allowed_host or [])},
            None if token_file is None else service.read_token(token_file),
        ),
        service.ConnectionLimits(max_connections, client_connections),
        service.Certificate(tls_cert, tls_key) if tls_cert and tls_key else None,
    )
