"""What a run goes on from: checkpoints of its policies, and rollouts that were finished before it was interrupted."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import agentlightning as agl
from agentlightning.types import RunExistsError
from agentlightning.verl.config import VerlConfig
from agentlightning.verl.deploy import make_policy, serve
from agentlightning.verl.policy import PolicyRun
from agentlightning.verl.resume import Checkpoints, finished_rollouts
from tests.e2e.letters import make_model

from .batches import identical
from .deployed import config

TWO = {"agentlightning.policies": {"writer": {}, "judge": {"trainable": False}}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def policies(cfg: VerlConfig) -> dict[str, PolicyRun]:
    return {name: make_policy(name, cfg, own, serve(cfg, own), identical, 4) for name, own in cfg.policies().items()}


def test_trained_policies_come_back_with_their_version_and_frozen_ones_never_had_another(
    path: Path, tmp_path: Path
) -> None:
    """Rollouts of the interrupted step, which are not run again, carry the versions that they were sampled with."""
    cfg = config(path, **TWO)
    saved = policies(cfg)
    with torch.no_grad():
        next(saved["writer"].learner.model.parameters()).add_(1.0)
    Checkpoints(cfg, tmp_path, saved, resume=False).save(3, {"seed": 7})
    again = policies(cfg)
    checkpoints = Checkpoints(cfg, tmp_path, again, resume=True)
    assert checkpoints.restore() == {"seed": 7, "step": 3}
    assert checkpoints.step == 3
    assert {name: policy.engine.version for name, policy in again.items()} == {"writer": 3, "judge": 0}
    ours, theirs = (next(each["writer"].learner.model.parameters()) for each in (again, saved))
    assert torch.equal(ours, theirs)


def test_checkpoints_that_the_run_does_not_go_on_with_are_not_written_into(path: Path, tmp_path: Path) -> None:
    cfg = config(path)
    made = policies(cfg)
    Checkpoints(cfg, tmp_path, made, resume=False).save(1, {})
    with pytest.raises(RunExistsError, match="checkpoints of another run"):
        Checkpoints(cfg, tmp_path, made, resume=False)


def test_a_rescue_leaves_older_checkpoints_and_hides_no_error(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config(path, **{"trainer.max_actor_ckpt_to_keep": 1})
    checkpoints = Checkpoints(cfg, tmp_path, policies(cfg), resume=False)
    checkpoints.save(2, {})
    checkpoints.rescue(2, {})  # is there already
    checkpoints.rescue(3, {})
    names = sorted(each.name for each in (tmp_path / "checkpoints").iterdir() if each.is_dir())
    assert names == ["global_step_2", "global_step_3"]
    (tmp_path / "file").write_text("in the way")
    elsewhere = config(path, **{"trainer.default_local_dir": str(tmp_path / "file")})
    with caplog.at_level(logging.WARNING):
        Checkpoints(elsewhere, tmp_path, policies(elsewhere), resume=False).rescue(1, {})
    assert "what was learned since step 0 is lost: can't write the checkpoint of step 1" in caplog.text


async def _store(*rollouts: tuple[str, int, str]) -> agl.InMemoryLightningStore:
    """A store with rollouts of (mode, step, status)."""
    store = agl.InMemoryLightningStore()
    for mode, step, status in rollouts:
        metadata = {"step": step, "task": 0, "sample": 0, "seed": 1}
        rollout = await store.enqueue_rollout({}, mode=mode, metadata=metadata)  # type: ignore[arg-type]
        attempted = await store.dequeue_rollout()
        assert attempted is not None
        await store.update_attempt(rollout.rollout_id, attempted.attempt.attempt_id, status=status)  # type: ignore[arg-type]
    await store.enqueue_rollout({"somebody": "else's"})
    return store


LEFT = [
    *(("val", 0, "succeeded"), ("train", 1, "succeeded"), ("val", 1, "succeeded"), ("train", 2, "succeeded")),
    *(("val", 2, "succeeded"), ("train", 3, "succeeded"), ("train", 2, "failed")),
]


@pytest.mark.parametrize(
    ("done", "deterministic", "expected"),
    [
        (0, True, [("val", 0), ("train", 1), ("val", 1), ("train", 2), ("val", 2), ("train", 3)]),
        (0, False, [("val", 0), ("train", 1)]),
        (1, True, [("train", 2), ("val", 2), ("train", 3)]),
        (1, False, [("train", 2)]),
    ],
)
def test_rollouts_are_not_run_again_where_the_weights_are_those_that_sampled_them(
    done: int, deterministic: bool, expected: list[tuple[str, int]]
) -> None:
    """A run that does not repeat itself to the bit has other weights once it has taken a step again."""

    async def found() -> list[Any]:
        return [*await finished_rollouts(await _store(*LEFT), done, deterministic=deterministic)]

    assert [key[:2] for key in asyncio.run(found())] == expected
