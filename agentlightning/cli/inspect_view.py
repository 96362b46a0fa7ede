"""What `agl inspect` draws. Called by `inspect` with the facts of a rollout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .query_tables import COLOURS

LONGEST = 60
"""Characters of a text in a table."""


def show(facts: Mapping[str, Any]) -> None:
    """Print the facts."""
    console = Console()
    _head(console, facts)
    if facts["turns"]:
        console.print(_turns(facts["turns"]))
        console.print(_rows(facts["rows"]))
    else:
        console.print("no LLM call with token ids was recorded: there is nothing to train on")
    for found in facts["breaks"]:
        _break(console, found)
    if facts["turns"] and not facts["breaks"]:
        console.print("no prefix broke: every call that goes on continues an earlier one token for token")
    if facts["calls_without_token_ids"]:
        console.print(
            f"[red]{facts['calls_without_token_ids']} calls came back without token ids:[/] training leaves the "
            "whole group of this rollout out"
        )
    for description in facts["failed_calls"]:
        console.print(f"[red]a call failed:[/] {escape(str(description))}")
    for number, row in enumerate(facts["rows"]):
        if row["runs"] and "text" in row["runs"][0]:
            _text(console, number, row)


def _head(console: Console, facts: Mapping[str, Any]) -> None:
    status = facts["status"]
    reward = "none" if facts["reward"] is None else f"{facts['reward']:g}"
    others = {name: value for name, value in facts["rewards"].items() if name != "primary"}
    console.print(
        f"[bold]{escape(facts['rollout_id'])}[/] attempt {escape(str(facts['attempt_id']))} "
        f"[{COLOURS.get(status, 'white')}]{status}[/]; reward {reward}"
        + "".join(f", {escape(name)} {value:g}" for name, value in others.items())
    )
    task = orjson.dumps(facts["input"], default=str).decode()
    console.print(f"task: {escape(_short(task, 200))}")
    if facts["error"]:
        console.print(f"[red]error:[/] {escape(facts['error'])}")


def _turns(turns: list[dict[str, Any]]) -> Table:
    agents = any(turn["agent"] for turn in turns)
    texts = "response" in turns[0]
    names = ["turn", *(["agent"] if agents else []), "model", "weights", "prompt", "answer", "log-prob", "ends by"]
    table = Table(*names, "reward", "row", *(["text"] if texts else []), title="turns", title_justify="left")
    for turn in turns:
        table.add_row(
            str(turn["turn"]),
            *([escape(turn["agent"] or "")] if agents else []),
            escape(turn["model"].rstrip("/").rpartition("/")[2]),
            str(turn["weights_version"]),
            str(turn["prompt_tokens"]),
            str(turn["response_tokens"]),
            "none" if turn["mean_logprob"] is None else f"{turn['mean_logprob']:.3f}",
            escape(turn["finish_reason"]),
            "" if turn["reward"] is None else f"{turn['reward']:g}",
            "" if turn["row"] is None else str(turn["row"]),
            *([Text(_short(repr(turn["response"])[1:-1], LONGEST))] if texts else []),
        )
    return table


def _rows(rows: list[dict[str, Any]]) -> Table:
    table = Table("row", "tokens", "trained", "mask", title="rows", title_justify="left")
    for number, row in enumerate(rows):
        mask = Text(", ").join(
            Text(f"{run['end'] - run['start']} given")
            if run["turn"] is None
            else Text(f"{run['end'] - run['start']} of turn {run['turn']}", style="green")
            for run in row["runs"]
        )
        table.add_row(str(number), str(row["tokens"]), str(row["trained"]), mask)
    return table


def _break(console: Console, found: Mapping[str, Any]) -> None:
    console.print(
        f"[yellow]turn {found['turn']} does not continue turn {found['earlier']}[/] from token {found['position']} on "
        f"(in its {found['in']}): [bold]{found['kind']}[/]: {escape(found['reason'])}"
    )
    more = "" if found["rejoins"] else " ..."
    for sign, side, colour in (("-", "removed", "red"), ("+", "added", "green")):
        shown = repr(found[f"{side}_text"]) if f"{side}_text" in found else _short(str(found[side]), 200)
        console.print(Text(f"  {sign} {shown}{more}", style=colour))


def _text(console: Console, number: int, row: Mapping[str, Any]) -> None:
    console.print(f"[bold]row {number}[/] (trained text is green, between ⟦ and ⟧):")
    parts = [
        Text(run["text"]) if run["turn"] is None else Text(f"⟦{run['text']}⟧", style="green") for run in row["runs"]
    ]
    console.print(Text("").join(parts))


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
