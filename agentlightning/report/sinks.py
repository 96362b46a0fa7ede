"""Loggers besides the file: TensorBoard and W&B. Called by `metrics`, which checks that they are installed.

TensorBoard's own writer is used rather than torch's, so that reports do not import torch.
"""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

_PACKAGES = {"tensorboard": "agentlightning[verl]", "wandb": "wandb"}


class Sink(Protocol):
    """Takes the numbers of a step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the numbers of `step`."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class TensorBoardSink:
    """Event files in `<run_dir>/tensorboard`.

    Args:
        run_dir: The run's directory.
        project, experiment: Not used: the directory says it.
        first_step: What an earlier execution wrote from this step on is void; the event says so to TensorBoard.
    """

    def __init__(self, run_dir: Path, project: str, experiment: str, first_step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        self._writer: Any = EventFileWriter(str(run_dir / "tensorboard"))
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=first_step, session_log=start))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        summary = self._summaries.Summary(value=values)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A run in W&B; its id stays in the run's directory, so that a resumed run goes on with it.

    Args:
        run_dir: The run's directory.
        project, experiment: Where the run appears in W&B.
        first_step: Not used: W&B itself keeps the first value of a step.
    """

    def __init__(self, run_dir: Path, project: str, experiment: str, first_step: int) -> None:
        # By name, because type checkers run where it is not installed.
        wandb: Any = importlib.import_module("wandb")

        id_file = run_dir / "wandb_id"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:8])
        self._run: Any = wandb.init(
            project=project, name=experiment, dir=str(run_dir), id=id_file.read_text(), resume="allow"
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: Mapping[str, Callable[[Path, str, str, int], Sink]] = {"tensorboard": TensorBoardSink, "wandb": WandbSink}
"""Loggers by name; called with run directory, project, experiment and first step."""


def missing_package(name: str) -> str | None:
    """What to install for the logger `name`, or `None` if it is there."""
    spec = find_spec(name)
    # W&B leaves directories called `wandb`, which Python would import as an empty package without an origin.
    return None if spec is not None and spec.origin is not None else _PACKAGES[name]
