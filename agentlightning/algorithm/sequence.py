"""`Sequence`: several algorithms in turn on one store, each beginning with what the others made.

`agl.Sequence([agl.APO(...), agl.VERL(...)], rounds=2)` tunes the prompts with the weights as they are, trains the
weights with the prompts as they are, and once more. `Trainer.fit` calls it like any other algorithm.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Sequence as Several
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import orjson

from agentlightning.types import ConfigError, Dataset, NamedResources, ResourcesUpdate

from .base import Algorithm

logger = logging.getLogger(__name__)


class Sequence(Algorithm):
    """Runs algorithms in turn, `rounds` times over.

    Each has a directory below the run's. Weights go on from turn to turn: `trainer.total_training_steps` are divided
    among the rounds. Prompts are tuned anew from the best so far, with rollouts of the weights as they are by then.
    While an algorithm runs, its agents get the models that the others train. A run that was killed goes on in the turn
    that it was in (`Trainer.fit(resume=True)`).

    Args:
        algorithms: In the order of their turns.
        rounds: How often each has its turn.

    Raises:
        ConfigError: there are none, one that is no algorithm, or `rounds` is below 1.
    """

    def __init__(self, algorithms: Several[Algorithm], *, rounds: int = 1) -> None:
        if not algorithms or not all(isinstance(each, Algorithm) for each in algorithms):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(
                f"`algorithms` must be a list of algorithms, such as `[APO(...), VERL(...)]`, not {algorithms!r}"
            )
        if rounds < 1:
            raise ConfigError(f"`rounds` must be at least 1, not {rounds}")
        self.algorithms = list(algorithms)
        self.rounds = rounds
        self._tuned: NamedResources = {}

    def check(self) -> None:
        for each in self.algorithms:
            each.check()

    def check_resume(self, recorded: Mapping[str, Any]) -> None:
        before = cast("list[Mapping[str, Any]]", recorded.get("algorithms") or [])
        names = [part.get("algorithm") for part in before]
        if before and (names, recorded.get("rounds")) != (
            [type(each).__name__ for each in self.algorithms],
            self.rounds,
        ):
            raise ConfigError(
                f"the run was begun with {recorded.get('rounds')} rounds of {names}; "
                "resume with the same, or start a new run"
            )
        for each, part in zip(self.algorithms, before, strict=False):
            each.check_resume(part)

    def describe(self) -> Mapping[str, Any]:
        parts = [each.describe() for each in self.algorithms]
        return {"algorithm": "Sequence", "rounds": self.rounds, "algorithms": parts}

    def default_datasets(self) -> tuple[Dataset[Any] | None, Dataset[Any] | None]:
        """Those of the first algorithm that names any."""
        found = [each.default_datasets() for each in self.algorithms]
        return next((data for data in found if data != (None, None)), (None, None))

    def tuned_resources(self) -> NamedResources:
        return self._tuned

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Run the turns that are not done yet."""
        turns = [(number, index) for number in range(self.rounds) for index in range(len(self.algorithms))]
        for turn, (number, index) in enumerate(turns):
            each = self.algorithms[index]
            file = None if self.run_dir is None else self.run_dir / f"turn-{turn}.json"
            for place, one in enumerate(self.algorithms):
                self._wire(one, number, place)
            each.begin_turn(number, self.rounds)
            if file is not None and file.exists():
                logger.info("turn %d of %d, `%s`: done before", turn + 1, len(turns), type(each).__name__)
                self._tuned = _read(file)
                continue
            logger.info("turn %d of %d: `%s`", turn + 1, len(turns), type(each).__name__)
            await self._turn(each, train_dataset, val_dataset)
            self._tuned = {**self._tuned, **each.tuned_resources()}
            if file is not None:
                _write(file, self._tuned)

    async def _turn(self, each: Algorithm, train: Dataset[Any] | None, val: Dataset[Any] | None) -> None:
        async with AsyncExitStack() as models:
            resources = {**(self.get_initial_resources() or {}), **self._tuned}
            for other in self.algorithms:
                if other is not each:
                    resources |= await models.enter_async_context(other.serving())
            each.set_initial_resources(resources)
            result = each.run(train, val)
            if each.is_async():
                await result

    def _wire(self, each: Algorithm, number: int, index: int) -> None:
        """Give it what this algorithm was given, and its directory in round `number`."""
        each.set_store(self.get_store())
        each.set_llm_proxy(self.get_llm_proxy())
        if self._adapter is not None:
            each.set_adapter(self._adapter)
        if self._trainer is not None:
            each.set_trainer(self._trainer)
        name = f"{index}-{type(each).__name__.lower()}"
        each.run_dir = None if self.run_dir is None else self.run_dir / (name if each.goes_on else f"{name}-{number}")
        each.resume = each.run_dir is not None and each.run_dir.exists()
        if each.run_dir is not None:
            each.run_dir.mkdir(parents=True, exist_ok=True)


def _write(file: Path, resources: NamedResources) -> None:
    """In one piece: a turn whose file is there is done."""
    record = ResourcesUpdate(resources_id="tuned", create_time=0, update_time=0, version=1, resources=resources)
    part = file.with_suffix(".part")
    part.write_bytes(orjson.dumps(record.model_dump(mode="json")["resources"], option=orjson.OPT_INDENT_2))
    part.replace(file)


def _read(file: Path) -> NamedResources:
    resources = orjson.loads(file.read_bytes())
    return ResourcesUpdate(resources_id="tuned", create_time=0, update_time=0, version=1, resources=resources).resources
