"""The command `add`."""

from pathlib import Path
from typing import Annotated

import typer

from metasd.errors import InputError

from .exports import Overwrite
from .options import Columns, Header, Json, load_compressed
from .output import note, print_record


def add(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder of `metasd compress`.")],
    triples: Annotated[
        Path, typer.Argument(metavar="TRIPLES", help="A file of triples, as of a graph.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the new model.", show_default="MODEL, which is replaced"),
    ] = None,
    columns: Columns = "hrt",
    header: Header = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Add new entities and their triples to a compressed model."""
    from metasd.compressed.storage import check_out
    from metasd.data.triple_files import read_rows
    from metasd.export.add import add_entities

    if out is not None:
        check_out(out, overwrite)
    small = load_compressed(model)
    if small is None:
        raise InputError(
            f"{model} is no compressed model; a run is continued by `metasd train GRAPH --from RUN`"
        )
    notes: list[str] = []
    rows = list(read_rows(triples, columns, header, notes))
    for line in notes:
        note(line)
    grown = add_entities(small, rows)
    folder = out or model
    grown.save_pretrained(folder, overwrite=overwrite or out is None)
    record = {
        "folder": str(folder),
        "new entities": grown.num_entities - small.num_entities,
        "entities": grown.num_entities,
        "known triples": None if grown.known is None else len(grown.known),
    }
    print_record(record, as_json)
