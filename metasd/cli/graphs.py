"""The commands `prepare`, `datasets` and `env`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Columns, DataDir, Header, Json, SplitRatios, parse_split_ratios
from .output import print_json, print_notes, print_record, print_rows


def prepare(
    graph: Annotated[
        str,
        typer.Argument(metavar="GRAPH", help="A folder or file of triples, or a name."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of the prepared graph.")],
    data_dir: DataDir = None,
    columns: Columns = "hrt",
    split_ratios: SplitRatios = None,
    header: Header = None,
    seed: Annotated[
        int, typer.Option(help="Of the split of a single file, and of a generated graph.")
    ] = 0,
    memory: Annotated[int, typer.Option(min=1, help="MiB of memory for sorting.")] = 1024,
    as_json: Json = False,
) -> None:
    """Write a graph of any size to be mapped into memory."""
    from metasd.data.graph import SPLITS
    from metasd.data.store import prepare as prepare_graph

    ratios = parse_split_ratios(graph, split_ratios, data_dir)
    made = prepare_graph(
        graph,
        out,
        data_dir,
        columns=columns,
        split_ratios=ratios,
        seed=seed,
        header=header,
        memory=memory << 20,
    )
    record: dict[str, Any] = {
        "folder": str(out),
        "graph": made.name,
        "entities": made.num_entities,
        "relations": made.num_relations,
        **{f"{name} triples": len(made.split(name)) for name in SPLITS},
        "digest": made.digest,
    }
    if as_json:
        print_json({**record, "notes": list(made.notes)})
        return
    print_record(record)
    print_notes(made)


def datasets(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the graphs that have a name."""
    from metasd.data.sources import known_graphs

    found = known_graphs(data_dir)
    if as_json:
        print_json([graph._asdict() for graph in found])
    else:
        print_rows([["graph", "from", ""], *([*graph] for graph in found)])


def env(as_json: Json = False) -> None:
    """Show versions, what was compiled, and the machine."""
    from metasd.environment import environment

    print_record(environment(), as_json)
