"""Loggers besides the file: TensorBoard and W&B. Called by `metrics`, which checks that they are installed.

TensorBoard's own writer is used rather than torch's, so that reports do not import torch.
"""

from __future__ import annotations

import html
import importlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

_PACKAGES = {"tensorboard": "agentlightning[verl]", "wandb": "wandb"}


class Sink(Protocol):
    """Takes the numbers of a step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the numbers of `step`."""
        ...

    def log_texts(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table of texts, by column."""
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
        self._write(
            step, [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        )

    def log_texts(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        from tensorboard.compat.proto import tensor_pb2, types_pb2

        tensors: Any = tensor_pb2
        types: Any = types_pb2
        metadata = self._summaries.SummaryMetadata(
            plugin_data=self._summaries.SummaryMetadata.PluginData(plugin_name="text")
        )
        tensor = tensors.TensorProto(dtype=types.DT_STRING, string_val=[_markdown(rows).encode()])
        # What plugins read carries the plugin's name, and tags of theirs end in it.
        self._write(step, [self._summaries.Summary.Value(tag=f"{name}/text_summary", metadata=metadata, tensor=tensor)])

    def _write(self, step: int, values: list[Any]) -> None:
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
        self._wandb: Any = importlib.import_module("wandb")

        id_file = run_dir / "wandb_id"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:8])
        self._run: Any = self._wandb.init(
            project=project, name=experiment, dir=str(run_dir), id=id_file.read_text(), resume="allow"
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def log_texts(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        columns = [*rows[0]]
        table: Any = self._wandb.Table(columns=columns, data=[[row.get(column) for column in columns] for row in rows])
        self._run.log({name: table}, step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: Mapping[str, Callable[[Path, str, str, int], Sink]] = {"tensorboard": TensorBoardSink, "wandb": WandbSink}
"""Loggers by name; called with run directory, project, experiment and first step."""


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table; texts are code, so that nothing in them is taken for formatting."""
    columns = [*rows[0]]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (html.escape(str(row.get(column)), quote=False) for column in columns)
        cells = (cell.replace("|", "&#124;").replace("\n", "&#10;") for cell in cells)
        lines.append("| " + " | ".join(f"<code>{cell}</code>" for cell in cells) + " |")
    return "\n".join(lines)


def missing_package(name: str) -> str | None:
    """What to install for the logger `name`, or `None` if it is there."""
    spec = find_spec(name)
    # W&B leaves directories called `wandb`, which Python would import as an empty package without an origin.
    return None if spec is not None and spec.origin is not None else _PACKAGES[name]
