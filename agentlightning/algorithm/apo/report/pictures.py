"""The curve and the lineage as PNG, for slides and READMEs. Needs matplotlib, which the extra `apo` brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .drawing import BLUE, GREEN, GRID, INK, MUTED, ancestors, bounds, shade
from .facts import Facts
from .tree import lineage


def draw_scores(facts: Facts, path: Path, title: str) -> None:
    """Best so far over the rollouts paid, a dot for each candidate, and the held-out result where there is one."""
    figure, axes = _figure(8.4, 4.7, title)
    dots = [(facts.paid_at.get(row.id, 0), row.val.mean) for row in facts.rows[1:] if row.val]
    held = facts.held_out
    ends = [held.start.mean, held.best.mean] if held else []
    values = [y for _, y in [*facts.curve, *dots]] + ends
    if dots:
        axes.plot(*zip(*dots, strict=True), "o", color=BLUE, alpha=0.3, markersize=4.5, label="candidates")
    if facts.curve:
        x, y = zip(*facts.curve, strict=True)
        axes.step(x, y, where="post", color=GREEN, linewidth=2.4, label="best so far, on validation")
        axes.plot(x, y, "o", color=GREEN, markersize=4)
    if facts.curve and ends:
        axes.plot(
            [facts.curve[0][0], facts.curve[-1][0]],
            ends,
            "D",
            color="#c2410c",
            markersize=7,
            label="held-out test, start and best",
        )
    if values:
        low, high = bounds(values)
        axes.set_ylim(low, high + 0.03 * (high - low))
    axes.set_xlabel("rollouts paid", color=MUTED)
    axes.set_ylabel("mean reward", color=MUTED)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK)
    figure.savefig(path, format="png")


def draw_lineage(facts: Facts, path: Path, title: str) -> None:
    """Who was made of whom; the way from the start to the best in green."""
    tree = lineage(facts.rows, facts.best.id)
    columns = max(node.generation for node in tree.nodes) + 1
    rows = max(node.place for node in tree.nodes) + 1
    figure, axes = _figure(min(30, 1.6 + 1.3 * columns), min(60, 1.3 + 0.34 * rows), title)
    line = ancestors(facts.rows, facts.best.id)
    for parent, child, first in tree.edges:
        on_line = {parent.row.id, child.row.id} <= line
        axes.plot(
            [parent.generation, child.generation],
            [-parent.place, -child.place],
            color=GREEN if on_line else "#cbd5e1",
            linewidth=1.8 if on_line else 1,
            linestyle="-" if first else "--",
            zorder=1,
        )
    means = [node.row.val.mean for node in tree.nodes if node.row.val] or [0.0]
    for node in tree.nodes:
        best, val = node.row.id == facts.best.id, node.row.val
        fill = "white" if val is None else shade(val.mean, min(means), max(means))
        edge = GREEN if best else "#94a3b8"
        spot = (node.generation, -node.place)
        axes.scatter(*spot, s=75 if best else 48, c=fill, edgecolors=edge, linewidths=2.4 if best else 1, zorder=2)
        label = node.row.id if val is None else f"{node.row.id}  {val.mean:.2f}"
        weight = "bold" if best else "normal"
        axes.annotate(
            label,
            spot,
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
            fontweight=weight,
        )
    axes.set_axis_off()
    axes.set_xlim(-0.4, columns - 0.6)
    axes.set_ylim(-rows + 0.4, 0.8)
    figure.savefig(path, format="png")


def _figure(width: float, height: float, title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED, length=0)
    return figure, axes
