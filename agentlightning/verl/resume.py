"""What a run goes on from: its checkpoints, and which of the rollouts in the store need not be run again.

Called by the loop in `trainer`. How a checkpoint is written, and when it counts, is the business of
`learner.checkpoint`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentlightning.learner.checkpoint import Part, latest_checkpoint, load_checkpoint, save_checkpoint
from agentlightning.learner.layout import TRACKER
from agentlightning.store.base import LightningStore
from agentlightning.types import ModelError, Rollout, RunExistsError

from .config import VerlConfig
from .daemon import SampleKey, key_of
from .policy import PolicyRun

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run.

    Args:
        config: Its settings.
        run_dir: They lie in `checkpoints` there, unless `trainer.default_local_dir` names another place. With neither
            none are written.
        policies: What is saved of each.
        resume: Whether the run goes on with the newest one.

    Raises:
        RunExistsError: there are some, and the run does not go on with them.
    """

    def __init__(
        self, config: VerlConfig, run_dir: Path | None, policies: Mapping[str, PolicyRun], *, resume: bool
    ) -> None:
        self._settings = config.trainer
        self._policies = policies
        self._resume = resume
        self._directory = None if run_dir is None else run_dir / "checkpoints"
        if config.trainer.default_local_dir is not None:
            self._directory = Path(config.trainer.default_local_dir).expanduser()
        self.newest: Path | None = None
        """What was loaded or saved last."""
        self.step = 0
        """The step of `newest`, 0 without one."""
        if not resume and self._directory is not None and (self._directory / TRACKER).exists():
            raise RunExistsError(
                f"`{self._directory}` holds checkpoints of another run; set `trainer.default_local_dir` anew"
            )

    def restore(self) -> Mapping[str, Any]:
        """Put the checkpoint to go on from into the policies; `step` is then its step.

        Returns:
            What the loop itself had remembered; empty where the run begins anew.

        Raises:
            ModelError: it can't be read.
        """
        path = self._to_go_on_from()
        if path is None:
            return {}
        state = load_checkpoint(path, self._parts())
        self.newest, self.step = path, int(state["step"])
        for policy in self._policies.values():
            if policy.own.trainable:  # one that is frozen has never had another version
                policy.engine.set_version(self.step)
        return state

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of step `step`, with the loop's own state as JSON.

        Raises:
            ModelError: the file system refused.
        """
        self._write(step, state, self._settings.max_actor_ckpt_to_keep)

    def rescue(self, step: int, state: Mapping[str, Any]) -> None:
        """Keep what was learned until step `step`, though the run ends with an error, which this must not hide.

        Older checkpoints all stay: nobody knows yet whether the newest is a good one.
        """
        if step <= self.step:
            return
        try:
            self._write(step, state, keep=None)
        except ModelError as error:
            logger.warning("what was learned since step %d is lost: %s", self.step, error)

    def _write(self, step: int, state: Mapping[str, Any], keep: int | None) -> None:
        if self._directory is not None:
            self.newest = save_checkpoint(self._directory, step, self._parts(), state, keep=keep)
            self.step = step

    def _to_go_on_from(self) -> Path | None:
        if self._settings.resume_mode == "resume_path" and self._settings.resume_from_path is not None:
            return Path(self._settings.resume_from_path).expanduser()
        if self._resume and self._settings.resume_mode == "auto" and self._directory is not None:
            return latest_checkpoint(self._directory)
        return None

    def _parts(self) -> dict[str, Part]:
        """What a checkpoint holds of each policy, by folder: one policy's lie at the top, as in verl."""
        parts: dict[str, Part] = {}
        for name, policy in self._policies.items():
            if policy.own.trainable:
                folder = f"{name}/" if len(self._policies) > 1 else ""
                parts |= {folder + kind: part for kind, part in policy.parts().items()}
        return parts


async def finished_rollouts(store: LightningStore, done: int, *, deterministic: bool) -> dict[SampleKey, Rollout]:
    """What an interrupted execution of the run left in the store and need not be run again.

    The next step's training rollouts came from exactly the checkpoint's weights, and the first validation from those
    of the start; all others from weights that only a deterministic run makes again. Failed rollouts are run again: the
    interruption itself may have failed them, and an agent's own failure repeats itself.

    Args:
        store: The run's.
        done: The checkpoint's step, 0 without one; rollouts of it and of earlier steps are history.
        deterministic: Whether the run repeats itself to the bit.

    Returns:
        Succeeded rollouts by key.
    """
    usable: dict[SampleKey, Rollout] = {}
    for rollout in await store.query_rollouts(status_in=["succeeded"]):
        if rollout.mode is None or not {"step", "task", "sample", "seed"} <= (rollout.metadata or {}).keys():
            continue
        mode, step, _, _ = key = key_of(rollout)
        history = 0 < done >= step
        same_weights = (mode, step) in (("train", done + 1), ("val", 0))
        if not history and (deterministic or same_weights):
            usable[key] = rollout
    return usable
