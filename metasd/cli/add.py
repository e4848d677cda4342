"""The command `add`."""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from metasd.errors import InputError

from .exports import Overwrite
from .options import Columns, Header, Json, load_compressed
from .output import print_record


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
    from metasd.data.triple_files import read_triples
    from metasd.export.add import add_entities

    if out is not None:
        check_out(out, overwrite)
    small = load_compressed(model)
    if small is None:
        raise InputError(
            f"{model} is no compressed model; a run is continued by `metasd train GRAPH --from RUN`"
        )
    notes: list[str] = []
    read = read_triples(triples, columns, header, notes)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    fields = (read.head, read.relation, read.tail)
    names = [np.array(field.labels)[field.codes] for field in fields]
    grown = add_entities(small, np.stack(names, axis=1).tolist())
    folder = out or model
    grown.save_pretrained(folder, overwrite=overwrite or out is None)
    record = {
        "folder": str(folder),
        "new entities": grown.num_entities - small.num_entities,
        "entities": grown.num_entities,
        "known triples": None if grown.known is None else len(grown.known),
    }
    print_record(record, as_json)
