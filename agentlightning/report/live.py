"""What the progress displays of training and prompt optimisation share: a bar for the whole run, one for its phase, and
what a display draws below them, for as long as the output is a terminal.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn


def bars(console: Console, *more: ProgressColumn) -> Progress:
    """Bars with what is done, how much of it and for how long; `more` columns at their right."""
    columns = (TextColumn("{task.description:<12}"), BarColumn(bar_width=40), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, *more, console=console)


class LiveDisplay:
    """A context manager that draws bars and `below` again and again; nothing where there is no terminal.

    Args:
        what: What the run counts: `step`, `round`.
        total: Of them in the whole run.
        more: More columns of the bars.
        enabled: False shows nothing.
        console: Where to write; default standard output.
    """

    def __init__(
        self, what: str, total: int, *more: ProgressColumn, enabled: bool = True, console: Console | None = None
    ) -> None:
        self.total = total
        self._enabled = enabled
        self._console = console or Console()
        self._bars = bars(self._console, *more)
        self._run = self._bars.add_task(what, total=total)
        self._phase = self._bars.add_task("", total=None, visible=False)
        self._live: Live | None = None

    def below(self) -> tuple[RenderableType, ...]:
        """What is drawn under the bars."""
        return ()

    def __enter__(self) -> Self:
        if self._enabled and self._console.is_terminal:
            self._live = Live(
                get_renderable=lambda: Group(self._bars, *self.below()), console=self._console, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Draw a last time."""
        self._bars.update(self._phase, visible=False)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Print a plain line; nothing if the display is not enabled."""
        if self._enabled:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
