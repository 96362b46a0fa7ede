"""Trials in memory, for tests of pure decision rules: rewards are looked up, nothing is run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from agentlightning.algorithm.apo.budget import Budget, Ledger
from agentlightning.algorithm.apo.candidate import Candidate, Proposal
from agentlightning.algorithm.apo.outcome import Outcome, Place, Split
from agentlightning.algorithm.apo.state import Round, State
from agentlightning.algorithm.apo.strategies import Job
from agentlightning.types import PromptTemplate

Reward = Callable[[str, Place], float]
"""Text of the prompt, place -> reward."""


class Table:
    """What `Trials` does for strategies, with a function in place of agents.

    `paid` lists (text, place) of each rollout in order, `calls` how many were new in each `run`.
    """

    def __init__(self, reward: Reward, sizes: Mapping[Split, int], ledger: Ledger) -> None:
        self.reward, self.sizes, self.ledger = reward, sizes, ledger
        self.done: dict[tuple[str, Place], Outcome] = {}
        self.paid: list[tuple[str, Place]] = []
        self.calls: list[int] = []

    def size(self, split: Split) -> int:
        return self.sizes.get(split, 0)

    def room(self) -> int:
        return self.ledger.room()

    def new(self, wanted: Sequence[tuple[Candidate, Place]]) -> int:
        return len({(c.key, place) for c, place in wanted} - self.done.keys())

    def outcomes(self, candidate: Candidate, split: Split) -> list[Outcome]:
        return [
            outcome
            for (key, place), outcome in sorted(self.done.items())
            if key == candidate.key and place.split == split
        ]

    def scores(self, candidate: Candidate, split: Split) -> dict[int, float]:
        rewards: dict[int, list[float]] = {}
        for outcome in self.outcomes(candidate, split):
            rewards.setdefault(outcome.place.task, []).append(outcome.reward)
        return {task: sum(values) / len(values) for task, values in rewards.items()}

    async def run(self, wanted: Sequence[tuple[Candidate, Place]]) -> list[Outcome]:
        todo = {(c.key, place): c for c, place in wanted if (c.key, place) not in self.done}
        self.ledger.rollouts(len(todo))
        self.calls.append(len(todo))
        for (key, place), candidate in todo.items():
            text = candidate.texts["prompt"]
            reward = self.reward(text, place)
            outcome = Outcome(place, f"{key}/{place}", "succeeded", reward, True, input=place.task)
            self.done[key, place] = outcome
            self.paid.append((text, place))
            self.ledger.rollout_done(outcome)
        return [self.done[c.key, place] for c, place in wanted]


def make_state(reward: Reward, *, val: int = 4, train: int = 8, rollouts: int | None = None, seed: int = 0) -> State:
    """A state with the start `v0`, whose text is "0", in round 1."""
    ledger = Ledger(Budget(rollouts=rollouts))
    trials = Table(reward, {"train": train, "val": val}, ledger)
    start = {"prompt": PromptTemplate(template="0", engine="f-string")}
    state = State(start, cast(Any, trials), cast(Any, None), ledger, seed)
    state.candidates = [Candidate("v0", {"prompt": "0"})]
    state.best, state.archive, state.rounds = state.candidates[0], list(state.candidates), [Round(1)]
    return state


def table_of(state: State) -> Table:
    return cast(Table, state.trials)


def add(state: State, *texts: str) -> list[Candidate]:
    """Candidates with these texts."""
    made = [state.admit(Proposal({"prompt": text}, (state.candidates[0],), "reflect")) for text in texts]
    assert None not in made
    return cast(list[Candidate], made)


async def on_val(state: State, candidate: Candidate, tasks: Sequence[int]) -> None:
    await state.trials.run([(candidate, Place("val", task)) for task in tasks])


def rows(table: Mapping[str, Sequence[float]]) -> Reward:
    """Rewards from a row for each text: the same for train and validation."""
    return lambda text, place: table[text][place.task]


class Numbered:
    """A proposer whose children are called after their parent and their number."""

    batch_size = 4

    async def propose(self, state: State, jobs: Sequence[Job]) -> list[Proposal | None]:
        return [
            Proposal({"prompt": f"{state.round}.{job.number} of {job.parent.id}"}, (job.parent,), "reflect", "prompt")
            for job in jobs
        ]


def noisy(scale: float = 1.0) -> Reward:
    """Rewards in eighths (sums are exact) that depend on text and place alone, so that there are ties."""
    return lambda text, place: random.Random(f"{text}/{place.split}/{place.task}").randrange(9) / 8 * scale
