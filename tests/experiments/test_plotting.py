"""Labels at curves: where they stand, what they avoid, and a study's plot of few and many runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metasd.experiments.plotting import Curve, label_curves, log_ticks
from metasd.experiments.study_report import write_study_report

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def empty() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    return figure, axes


def boxes(axes: Axes) -> list[Any]:
    return [text.get_window_extent() for text in axes.texts]


@pytest.mark.slow
def test_labels_cover_neither_curves_nor_each_other() -> None:
    figure, axes = empty()
    curves = [Curve(f"curve {slope}", "black", [1, 9], [1, 1 + slope]) for slope in (0, 1, 2, 4, 8)]
    for curve in curves:
        axes.plot(curve.x, curve.y)
    assert label_curves(figure, axes, curves) == []
    found = boxes(axes)
    assert [text.get_text() for text in axes.texts] == [curve.label for curve in curves]
    for i, box in enumerate(found):
        assert axes.bbox.fully_containsx(box.x0)
        assert axes.bbox.fully_containsx(box.x1)
        assert not any(box.overlaps(other) for other in found[:i])
        for curve in curves:
            line = np.linspace(*np.column_stack([curve.x, curve.y]), 500)
            assert not any(box.contains(*point) for point in axes.transData.transform(line))


def test_a_label_stands_nearest_to_its_own_curve() -> None:
    figure, axes = empty()
    curves = [Curve("low", "black", [1, 9], [4, 4]), Curve("high", "black", [1, 9], [5, 5])]
    label_curves(figure, axes, curves)
    low, high = ((box.y0 + box.y1) / 2 for box in boxes(axes))
    below, above = axes.transData.transform([(0, 4), (0, 5)])[:, 1]
    assert abs(low - below) < abs(low - above)
    assert abs(high - above) < abs(high - below)


def test_a_label_without_a_place_is_left_out_and_returned() -> None:
    figure, axes = empty()
    curves = [Curve("x" * 500, "black", [1, 9], [4, 4]), Curve("y", "black", [20], [4])]
    assert label_curves(figure, axes, curves) == ["x" * 500]
    assert len(axes.texts) == 0


def test_a_label_far_from_its_point_gets_a_line() -> None:
    figure, axes = empty()
    x, y = (part.ravel() for part in np.meshgrid(np.linspace(4, 6, 30), np.linspace(4, 6, 30)))
    label_curves(figure, axes, [Curve("", "grey", x, y, False), Curve("in", "black", [5], [5])])
    assert len(axes.texts) == len(axes.lines) == 1


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.3, 30, [0.5, 1, 2, 5, 10, 20]),
        (1e-4, 1e3, [1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100, 1000]),
        (3.1, 4.5, [3.4, 3.7, 4.1]),
    ],
)
def test_ticks_are_round_and_two_at_least(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


def study(folder: Path, runs: int, lowest: float = 0.4) -> Path:
    rows = []
    for i in range(runs):
        for form, share in (("source fp32", 1), ("compact auto", 10)):
            mrr = lowest if i == 0 else 0.5 - 0.01 * i
            valid = {"mrr": mrr, "by_frequency": {"rare": {"mrr": 0.1}}}
            size = 1e6 / share / (i + 1)
            rows.append(
                {"run": f"$run {i}\0", "seed": 0, "form": form, "bytes": size, "valid": valid}
            )
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"graph": "toys", "runs": {}, "rows": rows}))
    return folder


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("runs", [1, 3, pytest.param(40, marks=pytest.mark.slow)])
def test_a_study_of_few_or_many_runs(tmp_path: Path, runs: int) -> None:
    import matplotlib as mpl

    folder = study(tmp_path / "study", runs)
    write_study_report(folder)
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red"}):  # a user's own taste
        write_study_report(folder, tmp_path / "again")
    first = (folder / "pareto.png").read_bytes()
    assert first == (tmp_path / "again" / "pareto.png").read_bytes()


@pytest.mark.parametrize("runs", [6, 18, 19])
def test_every_model_is_drawn_and_no_run_like_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    monkeypatch.setattr("metasd.experiments.plotting.label_curves", lambda *_: [])
    drawn: list[Any] = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: drawn.extend(x := plot(*a, **k)) or x)
    write_study_report(study(tmp_path / "study", runs, lowest=0.01))
    marks = [line for line in drawn if len(line.get_xdata()) == 1 and line.get_marker() != "None"]
    assert len(marks) == 2 * runs
    low, high = marks[0].axes.get_ylim()
    assert all(low < line.get_ydata()[0] < high for line in marks)
    looks = [
        (line.get_color(), line.get_linestyle())
        for line in drawn
        if line.get_label().startswith("$run")
    ]
    assert len(set(looks)) == len(looks) == (runs if runs <= 18 else 0)


def test_a_study_of_zeros(tmp_path: Path) -> None:
    write_study_report(study(tmp_path / "study", 1, 0.0))
    assert (tmp_path / "study" / "pareto.png").exists()
