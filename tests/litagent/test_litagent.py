"""Agents as classes: which method does which mode."""

import gc
from typing import Any

import pytest

from agentlightning.litagent import LitAgent


class Sync(LitAgent[int]):
    def rollout(self, task: int, resources: Any, rollout: Any) -> str:
        return "rollout"


class Split(Sync):
    def training_rollout(self, task: int, resources: Any, rollout: Any) -> str:
        return "training"

    async def validation_rollout_async(self, task: int, resources: Any, rollout: Any) -> str:
        return "validation"


class OnlyTraining(LitAgent[int]):
    async def training_rollout_async(self, task: int, resources: Any, rollout: Any) -> str:
        return "training"


class AsyncUnderSyncName(LitAgent[int]):
    async def rollout(self, task: int, resources: Any, rollout: Any) -> str:
        return "async"


def test_the_most_specific_method_wins():
    assert Sync().entry("train").__name__ == Sync().entry("test").__name__ == "rollout"
    assert Split().entry("train").__name__ == "training_rollout"
    assert Split().entry("val").__name__ == Split().entry(None).__name__ == "validation_rollout_async"


def test_is_async():
    assert not Sync().is_async()
    assert Split().is_async()
    assert AsyncUnderSyncName().is_async()


def test_a_mode_that_nothing_does_is_named():
    OnlyTraining().check()
    with pytest.raises(TypeError, match="`OnlyTraining` can't do a rollout of mode 'val'"):
        OnlyTraining().entry("val")


def test_an_agent_that_does_nothing_is_refused():
    class Nothing(LitAgent[int]): ...

    with pytest.raises(TypeError, match="`Nothing` does nothing: override"):
        Nothing().check()


async def test_defaults_lead_to_the_general_method():
    assert Sync().training_rollout(1, {}, None) == "rollout"  # type: ignore[arg-type]
    assert Sync().validation_rollout(1, {}, None) == "rollout"  # type: ignore[arg-type]

    class Async(LitAgent[int]):
        async def rollout_async(self, task: int, resources: Any, rollout: Any) -> int:
            return task

    assert await Async().training_rollout_async(1, {}, None) == 1  # type: ignore[arg-type]
    assert await Async().validation_rollout_async(2, {}, None) == 2  # type: ignore[arg-type]


def test_trainer_and_runner_are_held_weakly_and_missed_clearly():
    class Owner: ...

    agent, owner = Sync(), Owner()
    for get in (agent.get_trainer, agent.get_runner, agent.get_tracer):
        with pytest.raises(ValueError, match="this agent has no"):
            get()
    agent.set_trainer(owner)
    agent.set_runner(owner)  # type: ignore[arg-type]
    assert agent.trainer is owner
    assert agent.runner is owner
    del owner
    gc.collect()
    with pytest.raises(ValueError, match="no trainer"):
        agent.get_trainer()
    with pytest.raises(ValueError, match="no runner"):
        agent.get_runner()


def test_a_subclass_that_forgets_super_init_works():
    class Forgetful(Sync):
        def __init__(self) -> None:
            pass

    with pytest.raises(ValueError, match="no runner"):
        Forgetful().get_runner()
    assert Forgetful().entry("train")(1, {}, None) == "rollout"
