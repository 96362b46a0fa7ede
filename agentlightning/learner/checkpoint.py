"""Checkpoints that survive a kill at any moment: written beside, renamed when whole, named by a tracker file last.

    <directory>/global_step_N/actor/huggingface/   weights, config and tokenizer; loads with `from_pretrained`
    <directory>/global_step_N/actor/optim.safetensors, actor/extra_state.json
    <directory>/global_step_N/data.json            what the loop itself wants to remember
    <directory>/latest_checkpointed_iteration.txt  the N to resume from

Directory and tracker names are verl's; tensors are safetensors and the rest JSON, so nothing is ever unpickled.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agentlightning.inference.loading import save_model
from agentlightning.types import ModelError

from .learner import Learner

TRACKER = "latest_checkpointed_iteration.txt"
_PREFIX = "global_step_"


def save_checkpoint(
    directory: Path, step: int, learner: Learner, tokenizer: Any, state: dict[str, Any], *, keep: int | None = None
) -> Path:
    """Write everything that step `step` left behind.

    Args:
        directory: Holds the checkpoints of one run.
        step: Number of the last finished step.
        learner: Its model, optimizer and place in the schedule are saved.
        tokenizer: Saved beside the weights.
        state: JSON values of the loop's own.
        keep: How many checkpoints to keep; `None` keeps all.

    Returns:
        The directory of this checkpoint.

    Raises:
        ModelError: the file system refused (disk full, read-only); the last good checkpoint is still there.
    """
    final = directory / f"{_PREFIX}{step}"
    partial = directory / f".partial_{_PREFIX}{step}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        actor = partial / "actor"
        actor.mkdir(parents=True)
        save_model(learner.model, tokenizer, actor / "huggingface")
        save_file(_optimizer_tensors(learner), actor / "optim.safetensors")
        (actor / "extra_state.json").write_bytes(orjson.dumps({"schedule_steps": learner.steps}))
        (partial / "data.json").write_bytes(orjson.dumps({**state, "step": step}, option=orjson.OPT_INDENT_2))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
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


def latest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint that the tracker names, or `None` where nothing was saved yet.

    Raises:
        ModelError: the tracker names a checkpoint that is not there.
    """
    tracker = directory / TRACKER
    if not tracker.exists():
        return None
    path = directory / f"{_PREFIX}{tracker.read_text().strip()}"
    if not path.is_dir():
        raise ModelError(
            f"`{tracker}` names `{path.name}`, which is not there; write the number of one that is into it"
        )
    return path


def load_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """Put weights, optimizer and schedule of a checkpoint into `learner`; the loop's own state comes back.

    Raises:
        ModelError: files are missing or of another model.
    """
    try:
        _load_weights(learner.model, path / "actor" / "huggingface")
        tensors = load_file(path / "actor" / "optim.safetensors", device=str(learner.device))
        learner.steps = int(orjson.loads((path / "actor" / "extra_state.json").read_bytes())["schedule_steps"])
        _restore_optimizer(learner, tensors)
        state: dict[str, Any] = orjson.loads((path / "data.json").read_bytes())
    except (OSError, KeyError, orjson.JSONDecodeError) as error:
        raise ModelError(f"checkpoint `{path}` can't be read: {error}; name an earlier one") from error
    return state


def _retain(directory: Path, step: int, keep: int) -> None:
    """Keep the `keep` newest. Later numbers than `step` are of a branch that was given up: they go first."""
    numbers = _all(directory)
    given_up = [number for number in numbers if number > step]
    kept = [number for number in numbers if number <= step][-max(keep, 1) :]
    for number in numbers:
        if number not in kept and (number not in given_up or len(numbers) > keep):
            shutil.rmtree(directory / f"{_PREFIX}{number}")


def _load_weights(model: Any, path: Path) -> None:
    """In place, so that the engine that shares the parameters sees them at once."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no .safetensors file in `{path}`")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors.update(load_file(file))
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # torch lists every shape that differs
        first = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
        raise ModelError(
            f"the weights in `{path}` are of another model: {first} Give the model that the run was begun with"
        ) from error
    tied = set(model.all_tied_weights_keys)  # stored once, under the other name
    if unexpected or set(missing) - tied:
        raise ModelError(f"the weights in `{path}` are of another model: missing {missing}, unexpected {unexpected}")


def _optimizer_tensors(learner: Learner) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.detach().contiguous()
        for name, parameter in learner.parameters.items()
        for key, value in learner.optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(learner: Learner, tensors: dict[str, torch.Tensor]) -> None:
    learner.optimizer.state.clear()
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        if name not in learner.parameters or (value.ndim and value.shape != learner.parameters[name].shape):
            raise ModelError(f"the optimizer state of `{name}` does not fit this model; it is from another one")
        learner.optimizer.state[learner.parameters[name]][slot] = value


def _all(directory: Path) -> list[int]:
    names = (path.name.removeprefix(_PREFIX) for path in directory.glob(f"{_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdigit())


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
