"""`plot_learning_curve`: the picture of a run, as it stands in a README. Called by commands when a run ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .progress import TRAIN_REWARD, VAL_REWARD

_INK, _MUTED, _GRID = "#1f2430", "#6b7280", "#e5e7eb"
_TRAIN, _VAL, _TEST = "#2563eb", "#c2410c", "#0f766e"
Series = tuple[list[float], list[float]]


def plot_learning_curve(
    metrics: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    title: str,
    before: float | None = None,
    after: float | None = None,
    keys: tuple[str, str] = (TRAIN_REWARD, VAL_REWARD),
    metric: str = "reward",
) -> None:
    """Draw the learning curve of a run.

    Args:
        metrics: Rows of `metrics.jsonl`.
        path: The picture; its ending says the format (.png, .svg, .pdf).
        title: What the run is.
        before, after: Held-out test result of the model before and after training, if there is one.
        keys: Names of the training and the validation metric.
        metric: What the vertical axis measures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train, val = series(metrics, keys[0]), series(metrics, keys[1])
    figure = Figure(figsize=(8.4, 4.7), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    _style(axes, title, metric)
    steps = [*train[0], *val[0]] or [0.0]
    if train[0]:
        axes.plot(*train, color=_TRAIN, linewidth=1, alpha=0.3, label=f"training {metric}, each step")
        axes.plot(train[0], smooth(train[1]), color=_TRAIN, linewidth=2.4, label=f"training {metric}, smoothed")
    if val[0]:
        axes.plot(*val, color=_VAL, linewidth=1.4, marker="o", markersize=5.5, label="validation, greedy")
    ends, colour = (before, after), _TEST
    if before is None and after is None and val[0]:
        ends, colour = (val[1][0], val[1][-1]), _VAL
    # Beside the curve rather than on it, where the numbers can be read.
    margin = 0.05 * max(max(steps) - min(steps), 1)
    places = (min(steps) - margin, max(steps) + margin)
    marks = [(x, y, name) for x, y, name in zip(places, ends, ("before", "after"), strict=True) if y is not None]
    for x, y, name in marks:
        _label(axes, x, y, name, colour, gap=9 if colour == _TEST else -9)
    if marks and colour == _TEST:
        axes.plot(
            [x for x, _, _ in marks], [y for _, y, _ in marks], "D", color=_TEST, markersize=8, label="held-out test"
        )
    axes.set_xlim(min(steps) - 1.8 * margin, max(steps) + 1.8 * margin)
    _set_range(axes, [*train[1], *val[1], *(y for _, y, _ in marks)])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            frameon=False,
            fontsize=9,
            labelcolor=_INK,
            borderaxespad=0.2,
            borderpad=0,
            columnspacing=1.6,
            handlelength=1.6,
        )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> Series:
    """Steps and values of a metric, where it is there and finite."""
    points = [(float(row["step"]), float(row[key])) for row in metrics if row.get(key) is not None]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    return [step for step, _ in points], [value for _, value in points]


def smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """Gaussian mean over about a tenth of the values; towards the ends over those that there are."""
    data = np.asarray(values, np.float64)
    sigma = max(len(data) / 24, 1.0)
    reach = min(int(3 * sigma), (len(data) - 1) // 2)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(data, kernel, "same") / np.convolve(np.ones_like(data), kernel, "same")


def _style(axes: Any, title: str, metric: str) -> None:
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=_INK, pad=28)
    axes.set_xlabel("training step", color=_MUTED)
    axes.set_ylabel(metric, color=_MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, length=0)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _set_range(axes: Any, values: Sequence[float]) -> None:
    """Rewards between 0 and 1 get that whole range, so that pictures of different runs compare."""
    if values and min(values) >= 0 and max(values) <= 1:
        axes.set_ylim(0, 1.12)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def _label(axes: Any, x: float, y: float, name: str, colour: str, *, gap: float) -> None:
    """A name and its number, `gap` points above (x, y)."""
    axes.annotate(
        f"{name}\n{y:.2f}",
        (x, y),
        xytext=(0, gap),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=10.5,
        fontweight="bold",
        color=colour,
    )
