"""Where the candidates of a lineage stand in the picture: a column for each generation, children beside parents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .facts import Row

MOST = 150
"""Candidates that one picture shows; of more only those with a validation score, descendants, or the best."""


@dataclass(frozen=True, slots=True)
class Node:
    """One candidate in the picture."""

    row: Row
    generation: int
    """Column, 0 for the start."""
    place: float
    """Row; leaves have whole numbers from 0."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes, and which of them are joined."""

    nodes: list[Node]
    edges: list[tuple[Node, Node, bool]]
    """(parent, child, whether it is the first parent)."""
    left_out: int
    """Candidates that are not shown."""


def lineage(rows: Sequence[Row], best: str) -> Tree:
    """Lay out the candidates, given in the order in which they were made.

    Args:
        rows: The candidates, the start first.
        best: Id of the best, which is always shown.
    """
    shown = _shown(rows, best)
    children: dict[str, list[Row]] = {row.id: [] for row in shown}
    roots: list[Row] = []
    for row in shown:
        first = next((parent for parent in row.candidate.parents if parent in children), None)
        (roots if first is None else children[first]).append(row)
    generation: dict[str, int] = {}
    for row in shown:
        known = [generation[parent] for parent in row.candidate.parents if parent in generation]
        generation[row.id] = max(known) + 1 if known else 0
    place = _places(roots, children)
    nodes = {row.id: Node(row, generation[row.id], place[row.id]) for row in shown}
    edges = [
        (nodes[parent], nodes[row.id], number == 0)
        for row in shown
        for number, parent in enumerate(row.candidate.parents)
        if parent in nodes
    ]
    return Tree(list(nodes.values()), edges, len(rows) - len(shown))


def _shown(rows: Sequence[Row], best: str) -> list[Row]:
    if len(rows) <= MOST:
        return list(rows)
    wanted = {rows[0].id, best} | {row.id for row in rows if row.val is not None}
    # Parents come before children, so one pass from the end finds all ancestors.
    for row in reversed(rows):
        if row.id in wanted:
            wanted.update(row.candidate.parents)
    return [row for row in rows if row.id in wanted]


def _places(roots: Sequence[Row], children: dict[str, list[Row]]) -> dict[str, float]:
    """Leaves one below the other, a parent in the middle of its children."""
    place: dict[str, float] = {}
    leaves = 0
    stack = [(row, False) for row in reversed(roots)]
    while stack:
        row, visited = stack.pop()
        below = children[row.id]
        if not below:
            place[row.id] = float(leaves)
            leaves += 1
        elif visited:
            place[row.id] = (place[below[0].id] + place[below[-1].id]) / 2
        else:
            stack.append((row, True))
            stack.extend((child, False) for child in reversed(below))
    return place
