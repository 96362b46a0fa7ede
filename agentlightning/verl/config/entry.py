"""Keys that nothing reads because of how the run was started: whose agent runs, on which tasks, with which loggers.

Called by `VERL.run`, which is the first to know; `unread` has the keys that other keys switch off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .checks import is_installed
from .names import fields, verl_defaults
from .notes import Note
from .rules import matches
from .schema import VerlConfig


@dataclass(frozen=True, slots=True)
class Entry:
    """How a run was started.

    Args:
        reads_rows: Rows of data files were read, checked and rewarded as the settings say: `main_ppo` did it.
        reads_files: The tasks are those of `data.train_files` and `data.val_files`.
        n_train: Training tasks; `None` where there are none.
        n_val: Validation tasks.
    """

    reads_rows: bool
    reads_files: bool
    n_train: int | None
    n_val: int | None


@dataclass(frozen=True, slots=True)
class _Idle:
    """Keys that are idle, why, and what to do."""

    keys: tuple[str, ...]
    why: str
    mend: str = ""


_ROWS = _Idle(
    ("data.{prompt_key,reward_fn_key,filter_overlong_prompts,truncation}", "reward.custom_reward_function.*"),
    "your own agent reads its task and gives the reward",
    "`python -m agentlightning.verl.main_ppo` reads it, for rows of data files",
)
_FILES = _Idle(
    ("data.{train_files,val_files}",), "the run was given its tasks", "give all tasks one way: as files, or to the run"
)
_VALIDATION = _Idle(
    (
        "trainer.{test_freq,validation_data_dir,log_val_generations}",
        "data.val_max_samples",
        "actor_rollout_ref.rollout.val_kwargs.*",
    ),
    "there are no validation tasks",
    "give `val_dataset`, `--val` or `data.val_files`",
)
_NAMES = _Idle(
    ("trainer.{project_name,experiment_name}",),
    "no logger that has projects runs, and the run directory is named otherwise",
    "name the run by `run_dir` or `--run`",
)


def entry_notes(config: VerlConfig, given: Mapping[str, Any], entry: Entry) -> list[Note]:
    """A note for each key that was given another value than its default and that this run does not read.

    Args:
        config: The configuration.
        given: What the user set, by full name.
        entry: How the run was started.
    """
    idle = list(_idle(config, entry))
    notes = [
        Note(key, value, "no_effect", row.why, row.mend)
        for key, value in given.items()
        if _says_something(key, value)
        for row in idle
        if any(matches(pattern, key) for pattern in row.keys)
    ]
    wanted = given.get("data.train_batch_size")
    if entry.n_train is not None and isinstance(wanted, int) and wanted > entry.n_train:
        instead = f"there are {entry.n_train} training tasks, and a step runs all of them"
        notes.append(Note("data.train_batch_size", wanted, "info", instead, "give more tasks, or make it smaller"))
    return notes


def _idle(config: VerlConfig, entry: Entry) -> Iterator[_Idle]:
    if not entry.reads_rows:
        yield _ROWS
    if not entry.reads_files:
        yield _FILES
    if entry.n_val is None:
        yield _VALIDATION
    if not entry.reads_rows and not ("wandb" in config.trainer.logger and is_installed("wandb")):
        yield _NAMES


def _says_something(key: str, value: Any) -> bool:
    """Whether a value is another than the default."""
    default = fields()[key].get_default(call_default_factory=True) if key in fields() else verl_defaults().get(key)
    return value != default and value is not None and value is not False
