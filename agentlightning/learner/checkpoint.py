"""Checkpoints that survive a kill at any moment: written beside, renamed when whole, named by a tracker file last.

    <directory>/global_step_N/actor/huggingface/   weights, config and tokenizer; loads with `from_pretrained`
    <directory>/global_step_N/actor/lora_adapter/  a LoRA policy's adapter, in peft's layout
    <directory>/global_step_N/actor/optim.safetensors, actor/extra_state.json
    <directory>/global_step_N/critic/              the same, and value_head.safetensors
    <directory>/global_step_N/data.json            what the loop itself wants to remember
    <directory>/global_step_N/rng.json             the process's random state
    <directory>/latest_checkpointed_iteration.txt  the N to resume from

With several policies there is a folder for each, such as `planner/actor`. What a part writes is in `parts`; here is
when it counts as written. Directory and tracker names are verl's; tensors are safetensors and the rest JSON, so nothing
is ever unpickled. Called by `verl/` and `algorithm/sft`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from safetensors import SafetensorError

from agentlightning.types import ModelError

from .layout import REPLACED, STATE, STEP, TRACKER, latest_checkpoint, put_back, step_numbers
from .parts import CriticPart, LearnerPart, Part, ReferencePart
from .rng import random_state, restore_random_state

__all__ = [
    "TRACKER",
    "CriticPart",
    "LearnerPart",
    "Part",
    "ReferencePart",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]

_PARTIAL = ".partial_"


def save_checkpoint(
    directory: Path, step: int, parts: Mapping[str, Part], state: Mapping[str, Any], *, keep: int | None = None
) -> Path:
    """Write everything that step `step` left behind.

    Args:
        directory: Holds the checkpoints of one run, which is the only one to write here.
        step: Number of the last finished step.
        parts: What to save, by its folder: `actor`, `critic`, `planner/actor`.
        state: JSON values of the loop's own.
        keep: How many checkpoints to keep; `None` keeps all.

    Returns:
        The directory of this checkpoint.

    Raises:
        ModelError: the file system refused (disk full, read-only); the last good checkpoint is still there.
    """
    final, partial = directory / f"{STEP}{step}", directory / f"{_PARTIAL}{STEP}{step}"
    try:
        _tidy(directory)
        for folder, part in parts.items():
            (partial / folder).mkdir(parents=True)
            part.save(partial / folder)
        (partial / "rng.json").write_bytes(orjson.dumps(random_state()))
        (partial / STATE).write_bytes(orjson.dumps({**state, "step": step}, option=orjson.OPT_INDENT_2))
        _put(partial, final)
        _write_atomically(directory / TRACKER, str(step))
    except (OSError, SafetensorError, ModelError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelError(
            f"can't write the checkpoint of step {step} to `{directory}`: {error}. The last good one is kept; "
            "free some space (or set `trainer.max_actor_ckpt_to_keep`) and resume"
        ) from error
    if keep is not None:
        _retain(directory, step, keep)
    return final


def load_checkpoint(path: Path, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Put a checkpoint into `parts`, in place, and set the random state; the loop's own state comes back.

    Args:
        path: A `global_step_N`.
        parts: As for `save_checkpoint`. Folders of the checkpoint that are not among them are left alone.

    Raises:
        ModelError: files are missing, damaged or of another model.
    """
    try:
        for folder, part in parts.items():
            if not (path / folder).is_dir():
                raise ModelError(f"checkpoint `{path}` has no `{folder}`: the run that wrote it trained without one")
            part.load(path / folder)
        restore_random_state(orjson.loads((path / "rng.json").read_bytes()))
        state: dict[str, Any] = orjson.loads((path / STATE).read_bytes())
        return {**state, "step": int(state["step"])}
    except ModelError:
        raise
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ModelError(f"checkpoint `{path}` can't be read: {error}; name an earlier one") from error


def _put(partial: Path, final: Path) -> None:
    """Rename to `final`. What is there steps aside first, and comes back where the rename does not happen."""
    replaced = final.with_name(f"{REPLACED}{final.name}")
    if final.exists():
        final.rename(replaced)
    try:
        partial.rename(final)
    except OSError:
        put_back(final)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _tidy(directory: Path) -> None:
    """Remove what killed saves left."""
    for replaced in directory.glob(f"{REPLACED}*"):
        put_back(replaced.with_name(replaced.name.removeprefix(REPLACED)))
        shutil.rmtree(replaced, ignore_errors=True)
    for partial in directory.glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial)


def _retain(directory: Path, step: int, keep: int) -> None:
    """Keep the `keep` newest. Later numbers than `step` are of a branch that was given up: they go first."""
    numbers = step_numbers(directory)
    given_up = [number for number in numbers if number > step]
    kept = [number for number in numbers if number <= step][-max(keep, 1) :]
    for number in numbers:
        if number not in kept and (number not in given_up or len(numbers) > keep):
            gone = directory / f"{_PARTIAL}{STEP}{number}"  # a kill must not leave half of it under its name
            (directory / f"{STEP}{number}").rename(gone)
            shutil.rmtree(gone)


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
