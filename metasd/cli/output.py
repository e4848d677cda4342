"""Printing: tables without frames, records, metrics, and the one line of an error."""

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from metasd.data.graph import Graph

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # labels might steer a terminal
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def fail(message: str, code: int) -> NoReturn:
    """Prints one line on standard error and exits."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    who = f"metasd, rank {os.environ.get('RANK')}" if several else "metasd"
    print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def note(message: str) -> None:
    """Prints on standard error what a reader of the output should know."""
    print(f"note: {message}", file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def print_rows(rows: list[list[str]]) -> None:
    """A table without frames; the first row is the header."""
    header, *body = rows
    table = Table(box=None, show_header=any(header), header_style="bold", pad_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "default", overflow="fold")
    for row in body:
        table.add_row(*(_CONTROL.sub(_REPLACED, str(cell)) for cell in row))
    Console(
        soft_wrap=sys.stdout is None or not sys.stdout.isatty(), highlight=False, markup=False
    ).print(table)


def print_record(record: dict[str, Any], as_json: bool = False) -> None:
    """Names and values, one per row; those with "bytes" in their name in kB, MB or GB, too."""
    if as_json:
        print_json(record)
        return
    from metasd.compressed.description import readable_bytes

    rows = []
    for key, value in record.items():
        for name, part in value.items() if isinstance(value, dict) else [("", value)]:
            shown = part
            if isinstance(part, int) and not isinstance(part, bool):
                shown = f"{part:,}" + (f" ({readable_bytes(part)})" if "bytes" in key else "")
            rows.append([f"{key} {name}".strip(), "-" if part is None else str(shown)])
    print_rows([["", ""], *rows])


def print_notes(graph: "Graph") -> None:
    """What was found while the graph was read, one line each."""
    for note in graph.notes:
        print(f"note: {_CONTROL.sub(_REPLACED, note)}")


def print_metrics(metrics: dict[str, Any]) -> None:
    """The content of metrics.json, and the epoch that it is of."""
    from metasd.experiments.run_report import summary_rows

    header, *rows = summary_rows(metrics)
    if not rows:
        print("nothing to evaluate: the graph has no valid and no test triples")
        return
    print_rows([header, *rows])
    protocol = metrics["protocol"]
    print(
        f"after epoch {protocol['best_epoch']} of {protocol['epochs']} "
        f"(chosen by: {protocol['chosen_by']})"
    )
