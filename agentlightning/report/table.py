"""Tables in the terminal: what a run came to, and what applies differently here.

Called by commands and by `verl.config`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_BEFORE, _AFTER = "_before", "_after"
_LOG_WIDTH = 180
"""Columns of a table in a file or pipe, where rich would fall back to 80: long keys must stay readable."""


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """The final table of a run.

    Args:
        summary: What `summary.json` holds. Each pair `<name>_before`, `<name>_after` becomes a row with its change;
            `wall_s` is followed by the phases in `wall_s_by_phase` (name to seconds); other entries are a row each.
            Keys ending in `_s` are seconds, in `_mib` MiB.
        console: Where to write; default standard output.
    """
    console = console or Console()
    if pairs := [key.removesuffix(_BEFORE) for key in summary if key.endswith(_BEFORE)]:
        rewards = _table("", "before", "after", "change")
        for name in pairs:
            before, after = summary[name + _BEFORE], summary.get(name + _AFTER)
            change = "" if before is None or after is None else f"{after - before:+.3f}"
            rewards.add_row(name.replace("_", " "), _reward(before), _reward(after), f"[bold]{change}[/bold]")
        console.print(rewards)
    facts = _table("run", "")
    for key, value in summary.items():
        if not key.endswith((_BEFORE, _AFTER)) and key != "wall_s_by_phase":
            facts.add_row(*_fact(key, value))
        if key == "wall_s":
            for phase, seconds in summary.get("wall_s_by_phase", {}).items():
                facts.add_row(f"  {phase.replace('_', ' ')}", _seconds(seconds), style="dim")
    console.print(facts)


def print_notes(notes: Sequence[tuple[str, Any, str, str]], console: Console | None = None) -> None:
    """The table at start: settings that were accepted but do something else here; nothing without notes.

    Args:
        notes: (key, value, what happens instead, how to get the real thing). Notes that say the same share a row.
        console: Where to write; default standard output.
    """
    if not notes:
        return
    rows: dict[tuple[str, str], list[str]] = {}
    for key, value, instead, real in notes:
        rows.setdefault((instead, real), []).append(f"{key} = {value!r}")
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("setting", no_wrap=not console.is_terminal, overflow="fold", min_width=24)
    table.add_column("what happens here", overflow="fold")
    table.add_column("to get the real thing", overflow="fold")
    for (instead, real), settings in rows.items():
        table.add_row(*(_escape(cell) for cell in ("\n".join(settings), instead, real)))
    console.print("Settings that apply differently here:", style="bold", highlight=False)
    console.print(table, highlight=False)


def _escape(text: str) -> str:
    """Text as it stands: values are the user's, and rich reads brackets as markup."""
    return text.replace("[", r"\[")


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _reward(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _fact(key: str, value: Any) -> tuple[str, str]:
    """Label and value of a row, with the unit that the key's ending names."""
    if isinstance(value, bool | str) or value is None:
        return key.replace("_", " "), _escape(str(value))
    if key.endswith("_s"):
        return f"{key.removesuffix('_s').replace('_', ' ')} time", _seconds(value)
    if key.endswith("_mib"):
        return key.removesuffix("_mib").replace("_", " "), f"{value:,.0f} MiB"
    return key.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _seconds(value: float) -> str:
    minutes, seconds = divmod(value, 60)
    return f"{minutes:.0f} min {seconds:02.0f} s" if value >= 60 else f"{value:.1f} s"
