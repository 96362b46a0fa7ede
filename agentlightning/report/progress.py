"""Live progress of a run in the terminal; one plain line a step where the output is no terminal.

Called by the training loops. The callbacks may come from any thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from .live import LiveDisplay, bars

T = TypeVar("T")
TRAIN_REWARD = "critic/score/mean"
VAL_REWARD = "val/reward"
_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 24


class Progress(LiveDisplay):
    """The steps of a run: how far it is, what it is doing, and how the reward goes. A context manager.

    Args:
        total: Steps of the whole run.
        enabled: False shows nothing.
        console: Where to write; default standard output.
    """

    def __init__(self, total: int, *, enabled: bool = True, console: Console | None = None) -> None:
        super().__init__("step", total, *_left(), enabled=enabled, console=console)
        self._rewards: list[float] = []
        self._status = Text("waiting for the first step", style="dim")

    def below(self) -> tuple[RenderableType, ...]:
        return (self._status,)

    def phase(self, step: int, name: str) -> Callable[[int, int], None]:
        """Say what the run does now.

        Args:
            step: The step that it belongs to.
            name: `rollouts`, `validation`, ...

        Returns:
            A function to call with (finished, all) as the phase goes on.
        """
        self._bars.update(self._run, completed=max(step - 1, 0))
        self.phase_now(name)
        return lambda done, total: self.phase_now(name, done, total)

    def phase_now(self, name: str, done: int = 0, total: int | None = None) -> None:
        """Show `done` of `total` parts of the phase `name`."""
        self._bars.update(self._phase, description=name, completed=done, total=total, visible=True)

    def step_done(self, row: Mapping[str, Any]) -> None:
        """Show the metrics of a finished step.

        Args:
            row: Metrics by verl's names, and `step`.
        """
        if isinstance(reward := row.get(TRAIN_REWARD), float) and math.isfinite(reward):
            self._rewards.append(reward)
        self._bars.update(self._run, completed=row["step"])
        line = describe_step(row)
        self._status = Text.assemble((_curve(self._rewards), "green"), "  " if self._rewards else "", line)
        if self._live is None:
            self.say(f"step {row['step']}/{self.total}  {line}")


def describe_step(row: Mapping[str, Any]) -> str:
    """The numbers of a step that a person watches: rewards, failures, speed, time."""
    parts: list[str] = []
    for label, key in (("reward", TRAIN_REWARD), ("val", VAL_REWARD)):
        if row.get(key) is not None:
            parts.append(f"{label} {row[key]:.3f}")
    if failed := row.get("training/n_rollouts_failed", 0) + row.get("val/n_rollouts_failed", 0):
        parts.append(f"{failed:.0f} rollouts failed")
    if (rollouts := row.get("training/n_rollouts")) and (
        silent := rollouts - row.get("training/n_rollouts_w_reward", 0)
    ):
        parts.append(f"{silent:.0f} without reward")
    if row.get("training/zero_variance_groups") == 1:
        parts.append("no group's rewards differ")
    seconds, tokens = row.get("timing_s/step"), row.get("perf/total_num_tokens")
    if seconds and tokens:
        parts.append(f"{tokens / seconds:,.0f} tokens/s")
    if seconds:
        parts.append(f"{seconds:.1f} s")
    return "  ".join(parts)


def track(items: Iterable[T], description: str, *, total: int, console: Console | None = None) -> Iterator[T]:
    """Go through `items` showing how far it is: a bar on a terminal, else a line for each tenth.

    Args:
        items: What to go through.
        description: What is being done, such as `fine-tuning`.
        total: Number of items.
        console: Where to write; default standard output.
    """
    console = console or Console()
    started = time.perf_counter()
    if console.is_terminal:
        with bars(console, *_left()) as shown:
            yield from shown.track(items, total=total, description=description)
        return
    for number, item in enumerate(items, 1):
        yield item
        if number * 10 // total > (number - 1) * 10 // total:
            spent = time.perf_counter() - started
            console.print(f"{description}  {number}/{total}  {spent:.1f} s", highlight=False, soft_wrap=True)


def _left() -> tuple[ProgressColumn, ProgressColumn]:
    return TextColumn("left", style="dim"), TimeRemainingColumn()


def _curve(values: list[float]) -> str:
    """The last values as a row of blocks, scaled to their own range."""
    shown = values[-_CURVE_WIDTH:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in shown)
