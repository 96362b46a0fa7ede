"""The pictures: learning curves as small multiples, reward over entropy. Called by `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .fit import EntropyFit
from .matrix import ALGORITHMS, THRESHOLD
from .table import Result, entropy_points

_INK, _MUTED, _GRID, _LINE = "#1f2430", "#6b7280", "#e5e7eb", "#2563eb"
_COLOURS = ("#2563eb", "#c2410c", "#0f766e")
_COLUMNS = 5


def draw_curves(results: Mapping[str, Sequence[Result]], path: Path) -> None:
    """Sampled reward over rollouts, one panel an algorithm, one line a seed; the first seed of all others in grey."""
    shown = {name: runs for name, runs in results.items() if runs and "rewards" in runs[0]}
    rows = -(-len(shown) // _COLUMNS)
    figure, axes = _figure(11, 2.1 * rows + 0.5, rows, _COLUMNS)
    longest = max(sum(run["rollouts"]) for runs in shown.values() for run in runs)
    for place, panel in enumerate(axes):
        if place >= len(shown):
            panel.axis("off")
            continue
        name = list(shown)[place]
        for other in shown.values():
            panel.plot(*_curve(other[0]), color=_GRID, linewidth=0.8)
        for run in shown[name]:
            panel.plot(*_curve(run), color=_LINE, linewidth=1.2, alpha=0.8)
        panel.axhline(THRESHOLD, color=_MUTED, linewidth=0.6, linestyle=":")
        _style(panel, ALGORITHMS[name].title)
        panel.set_xlim(0, longest)
        panel.set_ylim(0.4, 1.0)
    figure.supxlabel("rollouts", color=_MUTED, fontsize=9)
    figure.supylabel("sampled reward", color=_MUTED, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_entropy(results: Mapping[str, Sequence[Result]], fits: Mapping[str, EntropyFit], path: Path) -> None:
    """Reward over entropy, running means, with the fitted law."""
    figure, (panel,) = _figure(6, 3.6, 1, 1)
    for colour, (name, fit) in zip(_COLOURS, fits.items(), strict=False):
        h, r = entropy_points(results[name])
        panel.scatter(h, r, s=9, color=colour, alpha=0.5, linewidths=0)
        line = np.linspace(min(h), max(h), 50)
        label = f"{ALGORITHMS[name].title}: R = {-fit.a:.2f} exp(H) {fit.b:+.2f}, R² {fit.r2:.2f}"
        panel.plot(line, -fit.a * np.exp(line) + fit.b, color=colour, linewidth=1.6, label=label)
    _style(panel, "Entropy is spent on reward")
    panel.set_xlabel("entropy, nats a token", color=_MUTED)
    panel.set_ylabel("sampled reward", color=_MUTED)
    panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _curve(run: Result) -> tuple[list[float], list[float]]:
    """Rollouts so far and the reward, as a mean over three steps."""
    rewards, total = np.asarray(run["rewards"], np.float64), np.cumsum(run["rollouts"])
    smooth = [float(rewards[max(0, i - 1) : i + 2].mean()) for i in range(len(rewards))]
    return total.tolist(), smooth


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _style(panel: Any, title: str) -> None:
    panel.set_title(title, loc="left", fontsize=9, fontweight="bold", color=_INK)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(_GRID)
    panel.grid(axis="y", color=_GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_MUTED, length=0, labelsize=7)
