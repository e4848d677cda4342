"""Progress bars for epochs and batches; one line per epoch where nothing can show them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

import rich.progress as bars
from rich.console import Console


def duration(seconds: float) -> str:
    """In a unit of which there are at least one and a half, such as "40 s" or "2.5 h"."""
    for unit, size, digits in (("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{max(seconds, 1):.0f} s"


class Progress:
    """An epoch bar and a batch bar with loss, triples/s and the time left.

    They are on standard error if that is a terminal, or in a notebook that has ipywidgets.
    """

    def __init__(self, epochs: int, done: int, quiet: bool = False) -> None:
        console = Console(file=sys.stderr)
        notebook = console.is_jupyter and find_spec("ipywidgets") is not None
        bars_shown = console.is_terminal or notebook
        self._lines = not quiet and not bars_shown
        self._last: dict[str, Any] = {}
        self._bars = bars.Progress(
            bars.TextColumn("{task.description:>14}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}"),
            console=console,
            disable=quiet or not bars_shown,
            transient=True,
        )
        self._total = epochs
        self._epochs = self._bars.add_task("epochs", total=epochs, completed=done, note="")
        self._batches = self._bars.add_task("batches", visible=False, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def epoch(self, epoch: int, steps: int, done: int) -> None:
        self._bars.reset(
            self._batches,
            total=steps,
            completed=done,
            visible=True,
            description=f"epoch {epoch + 1}",
        )

    def step(self, losses: dict[str, float], steps: int, triples_per_second: float) -> None:
        shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        self._bars.update(
            self._batches, advance=steps, note=f"{triples_per_second:,.0f} triples/s  {shown}"
        )

    def end_epoch(self, record: dict[str, Any]) -> None:
        self._bars.update(self._epochs, completed=record["epoch"])
        valid = {name: found for name, found in record.items() if name.startswith("valid/")}
        scores = [
            f"{name.removeprefix('valid/')} {found['mrr']:.4f}"
            for name, found in valid.items()
            if found is not self._last.get(name)  # that of a source which is not trained any more
        ]
        self._last |= valid
        note = "valid MRR: " + ", ".join(scores)
        if scores:
            self._bars.update(self._epochs, note=note)
        if self._lines:
            rate = f"{record['triples_per_second']:,.0f} triples/s"
            losses = [
                f"{name.removeprefix('loss/')} {value:.3f}"
                for name, value in record.items()
                if name.startswith("loss/")
            ]
            line = [f"epoch {record['epoch']} of {self._total}", rate]
            line += ["loss: " + ", ".join(losses), *([note] if scores else [])]
            print("; ".join(line), file=sys.stderr, flush=True)

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar that is there only while its task runs."""
        task = self._bars.add_task(label, total=total, note="")
        try:
            yield lambda done: self._bars.advance(task, done)
        finally:
            self._bars.remove_task(task)
