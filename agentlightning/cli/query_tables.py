"""The tables that `agl query` draws, one function for each kind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from .query import Answer

LONGEST_CELL = 60
NARROWEST = 12
"""Characters that a column that may be cut is shown with at least."""
BORDER = 3
"""Characters between two columns."""
COLOURS = {
    "succeeded": "green",
    "idle": "green",
    "OK": "green",
    "failed": "red",
    "timeout": "red",
    "unresponsive": "red",
    "unknown": "red",
    "ERROR": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "preparing": "cyan",
    "busy": "cyan",
}


def table(kind: str, answer: Answer, place: str, width: int) -> Table:
    """The answer as a table of at most `width` characters; its caption says what is left out."""
    grid = _TABLES[kind](answer)(width)
    grid.title = f"{kind} of {escape(place)}"
    grid.title_justify = "left"
    more = answer.total - len(answer.items)
    if more > 0:
        grid.caption = f"{len(answer.items)} of {answer.total}; `--limit N` or `--all` shows more"
        grid.caption_justify = "left"
    return grid


Row = Mapping[str, str]
Grid = Callable[[int], Table]
"""Draws a table of a width."""


def _grid(rows: Sequence[Row], columns: Sequence[str], whole: Sequence[str]) -> Grid:
    """The rows as a table without the columns in which nothing stands.

    Args:
        rows: Cells by column.
        columns: In their order.
        whole: Columns that are never cut. In a narrow terminal the others are, and the first of them are left out.
    """
    filled = [column for column in columns if column in whole or any(row[column] for row in rows)]
    natural = {column: max(map(_width, [column, *(row[column] for row in rows)])) for column in filled}

    def draw(width: int) -> Table:
        widths = _widths(natural, whole, width)
        grid = Table()
        for column in widths:
            grid.add_column(column, no_wrap=True, width=widths[column], overflow="ellipsis")
        for row in rows:
            grid.add_row(*(row[column] for column in widths))
        return grid

    return draw


def _widths(natural: Mapping[str, int], whole: Sequence[str], width: int) -> dict[str, int]:
    """The width of each column that there is room for."""
    flexible = [column for column in natural if column not in whole]
    fixed = sum(natural[column] + BORDER for column in natural if column in whole) + 1
    while flexible and fixed + sum(min(natural[column], NARROWEST) + BORDER for column in flexible) > width:
        del flexible[0]
    room = width - fixed - BORDER * len(flexible)
    widths = {column: natural[column] for column in natural if column in whole}
    for left, column in zip(range(len(flexible), 0, -1), sorted(flexible, key=lambda name: natural[name]), strict=True):
        widths[column] = min(natural[column], room // left)
        room -= widths[column]
    return {column: widths[column] for column in natural if column in widths}


def _width(markup: str) -> int:
    return cell_len(Text.from_markup(markup).plain)


def _rollouts(answer: Answer) -> Grid:
    rows = [_rollout(rollout, answer.rewards.get(rollout.rollout_id)) for rollout in answer.items]
    columns = ("rollout", "status", "reward", "mode", "attempts", "worker", "began", "took", "input", "error")
    return _grid(rows, columns, ("rollout", "status", "reward", "attempts", "took"))


def _rollout(rollout: Any, reward: float | None) -> Row:
    attempt = getattr(rollout, "attempt", None)
    return {
        "rollout": rollout.rollout_id,
        "status": _status(rollout.status),
        "reward": "" if reward is None else f"{reward:g}",
        "mode": rollout.mode or "",
        "attempts": "" if attempt is None else f"{attempt.sequence_id}/{rollout.config.max_attempts}",
        "worker": "" if attempt is None else escape(attempt.worker_id or ""),
        "began": _ago(rollout.start_time),
        "took": _took(rollout.start_time, rollout.end_time),
        "input": _json(rollout.input),
        "error": _error(attempt),
    }


def _attempts(answer: Answer) -> Grid:
    rows = [
        {
            "attempt": attempt.attempt_id,
            "#": str(attempt.sequence_id),
            "status": _status(attempt.status),
            "worker": escape(attempt.worker_id or ""),
            "began": _ago(attempt.start_time),
            "took": _took(attempt.start_time, attempt.end_time),
            "last sign": _ago(attempt.last_heartbeat_time),
            "error": _error(attempt),
        }
        for attempt in answer.items
    ]
    columns = ("attempt", "#", "status", "worker", "began", "took", "last sign", "error")
    return _grid(rows, columns, ("attempt", "#", "status"))


def _spans(answer: Answer) -> Grid:
    rows = [
        {
            "#": str(span.sequence_id),
            "name": escape(span.name),
            "status": _status(span.status.status_code),
            "took": "" if span.start_time is None else _took(span.start_time, span.end_time),
            "tokens": "" if (call := span.token_call) is None else f"{len(call.prompt_ids)}+{len(call.response_ids)}",
            "attributes": _json(span.attributes),
        }
        for span in answer.items
    ]
    return _grid(rows, ("#", "name", "status", "took", "tokens", "attributes"), ("#", "name", "status"))


def _workers(answer: Answer) -> Grid:
    rows = [_worker(worker, worker.heartbeat_stats or {}) for worker in answer.items]
    columns = ("worker", "status", "rollout", "last heartbeat", "last dequeue", "under way", "CPU %", "GiB")
    return _grid(rows, columns, ("worker", "status", "last heartbeat"))


def _worker(worker: Any, figures: Mapping[str, Any]) -> Row:
    return {
        "worker": escape(worker.worker_id),
        "status": _status(worker.status),
        "rollout": worker.current_rollout_id or "",
        "last heartbeat": _ago(worker.last_heartbeat_time),
        "last dequeue": _ago(worker.last_dequeue_time),
        "under way": str(figures.get("underway", "")),
        "CPU %": str(figures.get("cpu_usage_pct", "")),
        "GiB": str(figures.get("process_rss_gb", "")),
    }


def _resources(answer: Answer) -> Grid:
    rows = [
        {
            "resources": update.resources_id,
            "version": str(update.version),
            "updated": _ago(update.update_time),
            "names": escape(", ".join(f"{name} ({value.resource_type})" for name, value in update.resources.items())),
        }
        for update in answer.items
    ]
    return _grid(rows, ("resources", "version", "updated", "names"), ("resources", "version"))


def _statistics(answer: Answer) -> Grid:
    grid = Table(show_header=False)
    for name, value in answer.items[0].items():
        grid.add_row(escape(str(name)), escape(f"{value:.1f}" if isinstance(value, float) else str(value)))
    return lambda width: grid


_TABLES: dict[str, Callable[[Answer], Grid]] = {
    "rollouts": _rollouts,
    "attempts": _attempts,
    "spans": _spans,
    "workers": _workers,
    "resources": _resources,
    "statistics": _statistics,
}


# -- cells ----------------------------------------------------------------------------------------------------------


def _status(status: str) -> str:
    colour = COLOURS.get(status)
    return status if colour is None else f"[{colour}]{status}[/]"


def _ago(at: float | None) -> str:
    return "" if at is None else f"{_duration(max(0.0, time.time() - at))} ago"


def _took(start: float, end: float | None) -> str:
    return "" if end is None else _duration(end - start)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _json(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False, default=str))


def _error(attempt: Any) -> str:
    error = ((attempt.metadata if attempt is not None else None) or {}).get("error")
    return _short(f"{error['type']}: {error['message']}") if isinstance(error, dict) and "type" in error else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return escape(line if len(line) <= LONGEST_CELL else f"{line[: LONGEST_CELL - 3]}...")
