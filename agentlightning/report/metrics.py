"""`MetricsLogger`: one line of metrics a step, to `metrics.jsonl` and to whatever loggers were asked for.

Called by the training loops. The file is the record that a resumed run goes on with, so lines are flushed at once and
cut back to the last checkpoint on resume; TensorBoard and W&B get the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import FileIO
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from agentlightning.types import ConfigError, TrainingError

from .sinks import SINKS, Sink, missing_package

FILE_NAME = "metrics.jsonl"
LOGGERS = ("console", "file", *SINKS)
"""Names that `backends` may hold. `console` is drawn by `progress`; `file` is always on."""
FOREIGN_LOGGERS = ("mlflow", "swanlab", "vemlp_wandb", "clearml", "trackio", "rl_insight")
"""Loggers of verl that are not built here: accepted, and named in `notes`."""


class MetricsLogger:
    """Writes metrics of a run. A context manager.

    Args:
        run_dir: Where the files go; `None` writes nothing.
        backends: Names of loggers, see `LOGGERS`.
        project: Project of the run in W&B.
        experiment: Name of the run in W&B; default the directory's name.

    Raises:
        ConfigError: a logger that nobody knows.

    `notes` says which loggers were asked for and are not there, and how to get them.
    """

    def __init__(
        self,
        run_dir: Path | None,
        backends: Sequence[str] = ("console",),
        *,
        project: str = "agentlightning",
        experiment: str | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.project = project
        self.experiment = experiment
        self.notes: list[str] = []
        self._wanted = [name for name in dict.fromkeys(backends) if self._usable(name)]
        self._sinks: list[Sink] | None = None
        self._file: FileIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def resume(self, done: int) -> list[dict[str, Any]]:
        """Cut the file back to what a checkpoint covers.

        Args:
            done: Steps that are finished; 0 begins anew, without the validation before the first step.

        Returns:
            The lines that stay.

        Raises:
            TrainingError: the file is damaged elsewhere than in its last line.
        """
        kept = [row for row in read_metrics(self.run_dir) if done > 0 and row["step"] <= done]
        if self.run_dir is not None:
            self._close_file()
            _replace(self.run_dir / FILE_NAME, b"".join(_line(row) for row in kept))
        return kept

    def log(self, row: Mapping[str, Any]) -> None:
        """Write one step. A number that is not finite becomes `null` in the file.

        Args:
            row: Metrics by name, and `step`.

        Raises:
            TrainingError: the disk is full.
        """
        if self.run_dir is None:
            return
        if self._file is None:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(self.run_dir / FILE_NAME, "ab")
        _write(self._file, _line(row))
        numbers = {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, Real)}
        for sink in self._opened(self.run_dir, row["step"]):
            sink.log(row["step"], numbers)

    def log_texts(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show rows of text, such as answers of a validation, in the loggers that can: TensorBoard and W&B.

        Args:
            step: The step that they belong to.
            name: Title of the table.
            rows: By column; the first one's columns are those of all.
        """
        if self.run_dir is not None and rows:
            for sink in self._opened(self.run_dir, step):
                sink.log_texts(step, name, rows)

    def close(self) -> None:
        """Flush and close everything."""
        self._close_file()
        for sink in self._sinks or []:
            sink.close()
        self._sinks = None

    def _opened(self, run_dir: Path, step: int) -> list[Sink]:
        """The loggers; opened at the first step, because from there on an interrupted execution's numbers are void."""
        if self._sinks is None:
            experiment = self.experiment or run_dir.resolve().name
            self._sinks = [SINKS[name](run_dir, self.project, experiment, step) for name in self._wanted]
        return self._sinks

    def _usable(self, name: str) -> bool:
        if name in FOREIGN_LOGGERS:
            self.notes.append(f"logger `{name}` is not built here; `{FILE_NAME}` holds the numbers")
        elif name not in LOGGERS:
            raise ConfigError(f"`trainer.logger` {name!r} is not known; there are {', '.join(LOGGERS)}")
        elif name in SINKS and (package := missing_package(name)):
            self.notes.append(
                f"logger `{name}` is not installed: pip install '{package}'; `{FILE_NAME}` holds the numbers"
            )
        else:
            return name in SINKS and self.run_dir is not None
        return False

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_metrics(run_dir: Path | None) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; none if there is no file. A last line that a kill cut off is left out.

    Raises:
        TrainingError: another line is damaged.
    """
    path = None if run_dir is None else run_dir / FILE_NAME
    if path is None or not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was not written to its end
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise TrainingError(f"`{path}`, line {number}: not JSON ({error}); remove the line to go on") from error
    return rows


def _line(row: Mapping[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _write(file: FileIO, line: bytes) -> None:
    """Unbuffered and in one piece, so that a kill can't leave half of it in memory."""
    try:
        written = file.write(line)
    except OSError as error:
        raise TrainingError(f"can't write `{file.name}`: {error.strerror}; make room and resume") from error
    if written != len(line):
        raise TrainingError(f"can't write `{file.name}`: the disk is full; make room and resume")


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
