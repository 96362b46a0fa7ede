"""`LitAgent`: what the runner needs to know of an agent. Subclass it, or decorate a function (see `decorator`).

The runner asks `entry` for the method of a mode and calls it with the task, the resources and the attempt.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentlightning.tracer import Tracer, get_active_tracer
from agentlightning.types import AttemptedRollout, NamedResources, RolloutMode, RolloutRawResult

if TYPE_CHECKING:
    from agentlightning.runner import Runner

T = TypeVar("T")

__all__ = ["LitAgent", "RolloutRawResult", "executing_runner"]

executing_runner: ContextVar[Any] = ContextVar("agentlightning_runner", default=None)
"""The runner that executes the current attempt; several share one agent object."""


class LitAgent(Generic[T]):
    """An agent that takes tasks of type `T`.

    Override `rollout` or `rollout_async`; override `training_rollout[_async]` or `validation_rollout[_async]` as well
    where training and validation differ. One object serves many attempts at once, from several threads if it is not
    async: what belongs to one task goes into local variables, not onto `self`.
    """

    needs_resources: bool = True
    """False for an agent that can run when the store holds no resources."""

    def __init__(self, *, trained_agents: str | None = None) -> None:
        """Begin without runner and trainer.

        Args:
            trained_agents: Kept for subclasses of 0.3 that pass it; which calls are trained is the adapter's choice.
        """
        self.trained_agents = trained_agents
        self._runner: weakref.ref[Runner[T]] | None = None
        self._trainer: weakref.ref[Any] | None = None

    # -- to override ------------------------------------------------------------------------------------------------

    def rollout(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Do one task. Called in a thread of its own.

        Args:
            task: The dataset row.
            resources: LLMs and prompts by name.
            rollout: Ids, mode and metadata of this attempt.

        Returns:
            `None` if the reward was emitted, else the reward (a number), else a list of spans.
        """
        raise NotImplementedError

    async def rollout_async(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """As `rollout`, on the event loop of the runner: many run at once, none may block."""
        raise NotImplementedError

    def training_rollout(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """As `rollout`, for rollouts of mode `train`."""
        return self.rollout(task, resources, rollout)

    def validation_rollout(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """As `rollout`, for rollouts of any other mode."""
        return self.rollout(task, resources, rollout)

    async def training_rollout_async(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """As `rollout_async`, for rollouts of mode `train`."""
        return await self.rollout_async(task, resources, rollout)

    async def validation_rollout_async(self, task: T, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """As `rollout_async`, for rollouts of any other mode."""
        return await self.rollout_async(task, resources, rollout)

    # -- for the runner ---------------------------------------------------------------------------------------------

    def is_async(self) -> bool:
        """Whether any of the methods that this agent overrides is a coroutine function."""
        return any(inspect.iscoroutinefunction(getattr(self, name)) for name in _ENTRIES if self._overrides(name))

    def entry(self, mode: RolloutMode | None) -> Callable[..., Any]:
        """The method that does a rollout of `mode`: the most specific one that is overridden.

        Raises:
            TypeError: none is.
        """
        special = "training" if mode == "train" else "validation"
        for name in (f"{special}_rollout_async", f"{special}_rollout", "rollout_async", "rollout"):
            if self._overrides(name):
                return getattr(self, name)
        raise TypeError(
            f"agent `{type(self).__name__}` can't do a rollout of mode {mode!r}: override `rollout` or `rollout_async`"
        )

    def check(self) -> None:
        """Called by the runner before the first rollout.

        Raises:
            TypeError: the agent overrides nothing.
        """
        if not any(self._overrides(name) for name in _ENTRIES):
            raise TypeError(f"agent `{type(self).__name__}` does nothing: override `rollout` or `rollout_async`")

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(LitAgent, name)

    def __getstate__(self) -> dict[str, Any]:
        """Without runner and trainer: a copy in another process has others."""
        return {**self.__dict__, "_runner": None, "_trainer": None}

    # -- what an agent may ask --------------------------------------------------------------------------------------

    def set_runner(self, runner: Runner[T]) -> None:
        """Called by the runner. Held weakly."""
        self._runner = weakref.ref(runner)

    def leave_runner(self, runner: Runner[T]) -> None:
        """Called by a runner that lets go of this agent: override it to end what was kept between rollouts."""

    def get_runner(self) -> Runner[T]:
        """The runner that executes the current attempt, or else the last one that took this agent.

        Raises:
            ValueError: no runner took it, or the runner is gone.
        """
        executing = executing_runner.get()
        runner = executing if executing is not None else _alive(self, "_runner")
        if runner is None:
            raise ValueError("this agent has no runner: only a runner that executes it sets one")
        return runner

    def set_trainer(self, trainer: Any) -> None:
        """Called by the trainer. Held weakly."""
        self._trainer = weakref.ref(trainer)

    def get_trainer(self) -> Any:
        """The trainer that runs this agent.

        Raises:
            ValueError: there is none, or it is gone.
        """
        trainer = _alive(self, "_trainer")
        if trainer is None:
            raise ValueError("this agent has no trainer: only `Trainer.fit` and `Trainer.dev` set one")
        return trainer

    def get_tracer(self) -> Tracer:
        """The tracer of the current attempt, or else of the runner. Raises `ValueError` as `get_runner` does."""
        return get_active_tracer() or self.get_runner().tracer

    @property
    def runner(self) -> Runner[T]:
        """See `get_runner`."""
        return self.get_runner()

    @property
    def trainer(self) -> Any:
        """See `get_trainer`."""
        return self.get_trainer()

    @property
    def tracer(self) -> Tracer:
        """See `get_tracer`."""
        return self.get_tracer()


_ENTRIES = (
    "rollout",
    "rollout_async",
    "training_rollout",
    "training_rollout_async",
    "validation_rollout",
    "validation_rollout_async",
)


def _alive(agent: LitAgent[Any], name: str) -> Any:
    reference = getattr(agent, name, None)  # a subclass may not call `super().__init__`
    return reference() if reference is not None else None
