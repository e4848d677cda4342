"""Where progress bars show."""

import contextlib
import importlib.machinery
import sys
import types
from typing import Any

import pytest
import rich.console

from metasd.training.progress import Progress

RECORD = {"epoch": 1, "triples_per_second": 10.0, "loss/source": 1.0}


def train_one_epoch() -> None:
    with Progress(2, 0) as progress:
        progress.epoch(0, 5, 0)
        progress.step({"source": 1.0}, 5, 10.0)
        progress.end_epoch(RECORD)


def notebook(monkeypatch: pytest.MonkeyPatch, widgets: bool) -> list[str]:
    """What is shown in a faked notebook with or without ipywidgets: the last text is the newest."""
    shown: list[str] = []

    class Output(contextlib.AbstractContextManager[None]):
        def __exit__(self, *_: object) -> None: ...
        def clear_output(self, wait: bool = False) -> None: ...
        def close(self) -> None: ...

    def display(*given: Any, **_: Any) -> None:
        for one in given:
            bundle = getattr(one, "_repr_mimebundle_", None)
            if bundle is not None:
                shown.append(bundle([], [])["text/plain"])

    for name, content in (
        ("IPython", {}),
        ("IPython.display", {"display": display}),
        ("ipywidgets", {"Output": Output}),
    ):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(content)
        there = widgets or name != "ipywidgets"
        monkeypatch.setitem(sys.modules, name, module if there else None)
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    return shown


def test_bars_show_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = notebook(monkeypatch, widgets=True)
    train_one_epoch()
    assert any("epochs" in text and "epoch 1" in text and "0/5" in text for text in shown)
    assert capsys.readouterr() == ("", "")


def test_a_notebook_without_widgets_and_a_pipe_get_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "epoch 1 of 2; 10 triples/s; loss: source 1.000\n"
    train_one_epoch()
    assert capsys.readouterr().err == line
    shown = notebook(monkeypatch, widgets=False)
    train_one_epoch()
    assert (shown, capsys.readouterr().err) == ([], line)
