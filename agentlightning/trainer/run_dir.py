"""A run's directory: one run, never mixed with another.

runs/<name>/config.json       what was run
runs/<name>/store.sqlite      every rollout, attempt and span
runs/<name>/metrics.jsonl     one line a step
runs/<name>/checkpoints/      see `learner.checkpoint`
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from agentlightning.types import ConfigError, RunExistsError

CONFIG = "config.json"


def open_run(path: Path, *, resume: bool) -> bool:
    """Make the directory of a new run, or find the one to resume.

    Returns:
        Whether the directory was made.

    Raises:
        RunExistsError: it holds a run and `resume` is false.
        ConfigError: `resume` is true and there is nothing to resume.
    """
    if resume and not path.is_dir():
        raise ConfigError(f"there is no run `{path}` to resume; check the name, or start it without `resume`")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"`{path}` is a file; give the run a directory of its own")
    if not resume and path.exists() and any(path.iterdir()):
        raise RunExistsError(f"run `{path}` exists; resume it (`resume=True`, `--resume`), or choose another name")
    new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"can't make the run's directory `{path}`: {error}; give another one") from error
    return new


def write_config(path: Path, description: Mapping[str, Any]) -> None:
    """Record what this run runs, for people and for tools."""
    (path / CONFIG).write_bytes(orjson.dumps(description, option=orjson.OPT_INDENT_2, default=str))


def read_config(path: Path) -> dict[str, Any]:
    """What `write_config` recorded; empty where a run was killed before it could."""
    file = path / CONFIG
    return orjson.loads(file.read_bytes()) if file.exists() else {}


def discard_empty_run(path: Path) -> None:
    """Remove the directory of a run that failed before anything was recorded, so that its name is free again.

    A directory that holds anything beside our own files of an empty run is left alone.
    """
    ours = [file for file in path.iterdir() if file.name in (CONFIG, "spool") or file.name.startswith("store.sqlite")]
    empty = [file for file in path.iterdir() if file.is_file() and file.stat().st_size == 0]
    if {*path.iterdir()} == {*ours, *empty}:
        shutil.rmtree(path)


def default_run_dir() -> Path:
    """`runs/<date>-<time>` under the working directory, one that does not exist yet."""
    base = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path
