"""The curve and the lineage as SVG, drawn by hand: the page holds them without scripts or outside resources."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from .facts import Facts, Row
from .tree import Node, Tree, lineage

INK, MUTED, GRID, BLUE, GREEN, PALE = "#1f2430", "#6b7280", "#e5e7eb", "#2563eb", "#0f766e", "#e2e8f0"
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 760, 300, 52, 16, 40
_COLUMN, _ROW, _MARGIN = 104, 34, 34


def curve_svg(facts: Facts) -> str:
    """Best so far over the rollouts paid, with a dot for each candidate that was tried on validation tasks."""
    dots = [(facts.paid_at.get(row.id, 0), row.val.mean) for row in facts.rows[1:] if row.val]
    points = facts.curve
    if not points:
        return "<p>No round is over yet.</p>"
    most = max(x for x, _ in [*points, *dots]) or 1
    low, high = bounds([y for _, y in [*points, *dots]])
    wide, tall = _WIDTH - _LEFT - 16, _HEIGHT - _TOP - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + wide * x / most, _TOP + tall * (high - y) / (high - low)

    parts = [_axes(ticks(low, high), ticks(0, most), at)]
    for x, y in dots:
        a, b = at(x, y)
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{BLUE}" fill-opacity="0.35"/>')
    parts.append(
        f'<path d="{_steps([at(*point) for point in points])}" fill="none" stroke="{GREEN}" stroke-width="2.5"/>'
    )
    for x, y in points:
        a, b = at(x, y)
        parts.append(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{GREEN}"><title>{x} rollouts: {y:.3f}</title></circle>'
        )
    return _svg(_WIDTH, _HEIGHT, parts, "Validation reward of the best prompt over rollouts")


def lineage_svg(facts: Facts) -> str:
    """Who was made of whom, and how good each is."""
    tree = lineage(facts.rows, facts.best.id)
    width = max(node.generation for node in tree.nodes) * _COLUMN + 2 * _MARGIN
    height = max(node.place for node in tree.nodes) * _ROW + 2 * _MARGIN
    line = ancestors(facts.rows, facts.best.id)
    parts = [_edge(parent, child, first, {parent.row.id, child.row.id} <= line) for parent, child, first in tree.edges]
    shades = _shades(tree)
    parts += [_node(node, shades, node.row.id == facts.best.id) for node in tree.nodes]
    return _svg(width, height, parts, "Lineage of the candidates")


def ancestors(rows: Sequence[Row], best: str) -> set[str]:
    """Ids on the way from the start to the best, both included."""
    line = {best}
    for row in reversed(rows):
        if row.id in line:
            line.update(row.candidate.parents)
    return line


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """What a vertical axis shows: 0 to 1 for rewards in that range, so that pictures of several runs compare."""
    low, high = min(values), max(values)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    margin = (high - low) * 0.08 or abs(high) * 0.08 or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from `low` to `high`."""
    rough = (high - low) / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _axes(upright: list[float], across: list[float], at: Callable[[float, float], tuple[float, float]]) -> str:
    parts: list[str] = []
    for y in upright:
        a, b = at(0, y)
        parts.append(f'<path d="M{a:.1f} {b:.1f}H{_WIDTH - 16}" stroke="{GRID}"/>')
        parts.append(_text(a - 8, b + 4, f"{y:g}", MUTED, "end"))
    parts += [_text(at(x, 0)[0], _HEIGHT - _BOTTOM + 18, f"{x:g}", MUTED, "middle") for x in across]
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 3, "rollouts paid", MUTED, "middle"))
    return "".join(parts)


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """A line that rises where a better prompt was found."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    return path + "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])


def _shades(tree: Tree) -> tuple[float, float]:
    values = [node.row.val.mean for node in tree.nodes if node.row.val]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _xy(node: Node) -> tuple[float, float]:
    return _MARGIN + node.generation * _COLUMN, _MARGIN + node.place * _ROW


def _edge(parent: Node, child: Node, first: bool, on_line: bool) -> str:
    (a, b), (c, d) = _xy(parent), _xy(child)
    middle = (a + c) / 2
    look = f'stroke="{GREEN}" stroke-width="2"' if on_line else 'stroke="#cbd5e1" stroke-width="1.2"'
    dashes = "" if first else ' stroke-dasharray="4 3"'
    return f'<path d="M{a} {b:.1f}C{middle} {b:.1f} {middle} {d:.1f} {c} {d:.1f}" fill="none" {look}{dashes}/>'


def _node(node: Node, shades: tuple[float, float], best: bool) -> str:
    a, b = _xy(node)
    score = node.row.val
    fill = "#ffffff" if score is None else shade(score.mean, *shades)
    ring = f'stroke="{GREEN}" stroke-width="3"' if best else 'stroke="#94a3b8" stroke-width="1"'
    candidate = node.row.candidate
    said = f"{candidate.id}: {candidate.operator}, round {candidate.round}, {node.row.fate}"
    label = candidate.id if score is None else f"{candidate.id}  {score.mean:.2f}"
    return (
        f'<g><title>{escape(said)}</title><circle cx="{a}" cy="{b:.1f}" r="{7 if best else 6}" fill="{fill}" {ring}/>'
        + _text(a, b - 11, label, INK if best else MUTED, "middle", bold=best)
        + "</g>"
    )


def shade(value: float, low: float, high: float) -> str:
    """From pale to green, the better the greener."""
    part = (value - low) / (high - low) if high > low else 1.0
    one, two = ([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (PALE, GREEN))
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(one, two, strict=True))


def _text(x: float, y: float, text: str, colour: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="700"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-size="11">{"".join(parts)}</svg>'
    )
