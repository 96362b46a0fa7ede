"""The table of a validation, made from its metrics. Called by `main_ppo` and `agl eval`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_METRIC = re.compile(r"val-(?:core|aux)/(.+)/([^/]+)/(mean|best|worst|maj)@(\d+)(?:/mean)?")
_WITH_INTERVAL = ("mean", "best")


def print_validation(metrics: Mapping[str, float], console: Console | None = None) -> None:
    """One row for each source and variable: mean@n and best@n with their 95 % intervals, worst and majority of n.

    Args:
        metrics: Of `verl.validation.validation_metrics`; others are passed over.
        console: Where to write; default standard output.
    """
    rows: dict[tuple[str, str], dict[str, tuple[int, str, float]]] = {}
    for name, value in metrics.items():
        if (found := _METRIC.fullmatch(name)) is None:
            continue
        source, variable, kind, n = found[1], found[2], found[3], int(found[4])
        columns = rows.setdefault((source, variable), {})
        if kind not in columns or columns[kind][0] < n:
            columns[kind] = n, name, value
    kinds = [kind for kind in ("mean", "best", "worst", "maj") if any(kind in columns for columns in rows.values())]
    table = Table("data source", "score", box=SIMPLE_HEAD, padding=(0, 1))
    for kind in kinds:
        counts = sorted({columns[kind][0] for columns in rows.values() if kind in columns})
        table.add_column(f"{kind}@{','.join(map(str, counts))}", justify="right")
        if kind in _WITH_INTERVAL:
            table.add_column("95 % interval", justify="right")
    for (source, variable), columns in sorted(rows.items()):
        cells: list[str] = []
        for kind in kinds:
            cells.append(f"{columns[kind][2]:.3f}" if kind in columns else "")
            if kind in _WITH_INTERVAL:
                cells.append(_interval(metrics, source, variable, kind, columns[kind][0]) if kind in columns else "")
        table.add_row(source, variable, *cells)
    (console or Console()).print(table, highlight=False)


def _interval(metrics: Mapping[str, float], source: str, variable: str, kind: str, n: int) -> str:
    name = f"val-aux/{source}/{variable}/{kind}@{n}/ci95_"
    low, high = metrics.get(f"{name}low"), metrics.get(f"{name}high")
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
