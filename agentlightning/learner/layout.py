"""Where things are in a checkpoint, and which one is the latest. Without torch, for `cli`; `checkpoint` writes them."""

from __future__ import annotations

from pathlib import Path

from agentlightning.types import ModelError

TRACKER = "latest_checkpointed_iteration.txt"
STEP = "global_step_"
STATE = "data.json"
WEIGHTS, ADAPTER, HEAD = "huggingface", "lora_adapter", "value_head.safetensors"
"""In the folder of a policy or critic."""
REPLACED = ".replaced_"
"""Before the name of a checkpoint that steps aside for a new one of its step."""


def latest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint that the tracker names, or `None` where nothing was saved yet.

    Raises:
        ModelError: the tracker names a checkpoint that is not there.
    """
    tracker = directory / TRACKER
    if not tracker.exists():
        return None
    path = directory / f"{STEP}{tracker.read_text().strip()}"
    put_back(path)
    if not path.is_dir():
        raise ModelError(
            f"`{tracker}` names `{path.name}`, which is not there; write the number of one that is into it"
        )
    return path


def put_back(path: Path) -> None:
    """Undo a replacement of `path` that a kill cut in two."""
    replaced = path.with_name(f"{REPLACED}{path.name}")
    if replaced.is_dir() and not path.exists():
        replaced.rename(path)


def step_numbers(directory: Path) -> list[int]:
    """The steps that `directory` has checkpoints of, ascending."""
    names = (path.name.removeprefix(STEP) for path in directory.glob(f"{STEP}*"))
    return sorted(int(name) for name in names if name.isdigit())
