"""`Report`: writes the files of a run's report, each whole or not at all."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from ..state import State
from .facts import Facts, Row, facts_of
from .page import page

logger = logging.getLogger(__name__)

_SUMMARY = "best_prompt.json"
_APART = 2.0
"""Seconds between two reports while a run goes on: rounds may be short, and the report is for people."""


class Report:
    """The report of one run.

    Args:
        directory: Where its files go; made when the first is written.
        plan: Settings of the run, to be shown.
        title: Name of the run.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any], title: str) -> None:
        self.directory = directory
        self._plan = plan
        self._title = title
        self._written = -math.inf

    def start_prompts(self) -> dict[str, str] | None:
        """The prompts that a run in this directory was begun with; `None` before its first report."""
        try:
            return orjson.loads((self.directory / _SUMMARY).read_bytes())["start_prompts"]
        except FileNotFoundError:
            return None

    def update(self, state: State) -> None:
        """Write how a run stands, unless that was done a moment ago."""
        if time.monotonic() - self._written < _APART:
            return
        self._write(facts_of(state, self._plan))
        self._written = time.monotonic()

    def finish(self, state: State, ended: str) -> Facts:
        """Write how a run ended, with the pictures.

        Args:
            state: Of the run, with the outcomes on test tasks where there are any.
            ended: Why it ended.
        """
        facts = facts_of(state, self._plan, ended)
        self._write(facts)
        _draw(facts, self.directory, self._title)
        return facts

    def _write(self, facts: Facts) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        texts = facts.best.candidate.texts
        for name, text in texts.items():
            file = "best_prompt.txt" if len(texts) == 1 else f"best_{quote(name, safe='')}.txt"
            _put(self.directory / file, text.encode())
        summary = orjson.dumps(_summary(facts), option=orjson.OPT_INDENT_2, default=str)
        _put(self.directory / _SUMMARY, summary)
        lines = [orjson.dumps(_line(row), default=str) for row in facts.rows]
        _put(self.directory / "candidates.jsonl", b"".join(line + b"\n" for line in lines))
        _put(self.directory / "report.html", page(facts, self._title).encode())


def _draw(facts: Facts, directory: Path, title: str) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("scores.png and lineage.png need matplotlib: `pip install agentlightning[apo]`")
        return
    from .pictures import draw_lineage, draw_scores

    for name, draw in (("scores.png", draw_scores), ("lineage.png", draw_lineage)):
        partial = directory / f".{name}.partial"
        draw(facts, partial, title)
        partial.replace(directory / name)


def _put(path: Path, data: bytes) -> None:
    """Write the whole file or leave the old one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def _summary(facts: Facts) -> dict[str, Any]:
    return {
        "prompts": dict(facts.best.candidate.texts),
        "id": facts.best.id,
        "start_prompts": dict(facts.start.candidate.texts),
        "validation": {"start": facts.start.val, "best": facts.best.val, "gain": facts.best.gain},
        "held_out": facts.held_out,
        "rounds": len(facts.rounds),
        "candidates": len(facts.rows),
        "rejected": facts.rejected,
        "spent": facts.spent,
        "failures": facts.failures,
        "ended": facts.ended or None,
        "settings": facts.plan,
    }


def _line(row: Row) -> dict[str, Any]:
    made = row.candidate
    return {
        "id": made.id,
        "round": made.round,
        "parents": made.parents,
        "operator": made.operator,
        "component": made.component,
        "fate": row.fate,
        "validation": row.val,
        "gain": row.gain,
        "train": row.train,
        "train_tasks": row.train_n,
        "why": made.why,
        "prompts": dict(made.texts),
    }
