"""The documented beam (spec/prompt_optimisation.md, 1.2): the loop takes the decisions that the text describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agentlightning.algorithm.apo.batches import Batches
from agentlightning.algorithm.apo.loop import optimise
from agentlightning.algorithm.apo.outcome import Place
from agentlightning.algorithm.apo.plan import Plan, plan_of
from agentlightning.algorithm.apo.state import State

from .table import Numbered, Reward, make_state, noisy, rows, table_of


def documented(width: int, branch: int, val_batch: int, rounds: int, validate_start: bool = True) -> Plan:
    return plan_of(
        selector={"width": width, "branch_factor": branch},
        evaluator={"val_batch_size": val_batch},
        proposer=Numbered(),
        rounds=rounds,
        validate_start=validate_start,
    )


@dataclass
class ByHand:
    """The loop of the specification, word for word, with the same dice; it runs nothing twice, and says what it ran."""

    reward: Reward
    state: State
    """For its dice only."""
    width: int
    branch: int
    val_batch: int
    rounds: int
    validate_start: bool
    paid: set[tuple[str, Place]] = field(default_factory=set[tuple[str, Place]])
    beams: list[list[str]] = field(default_factory=list[list[str]])
    best: tuple[str, float] = ("0", float("-inf"))

    def mean(self, text: str, tasks: list[int]) -> float:
        places = [Place("val", task) for task in tasks]
        self.paid.update((text, place) for place in places)
        return sum(self.reward(text, place) for place in places) / len(places)

    def dice(self, split: str) -> Callable[[int], object]:
        return lambda epoch: self.state.rng(split, epoch)

    def run(self, val: int, train: int) -> ByHand:
        everything = list(range(val))
        train_batches, val_batches = (
            Batches(train, 4, self.dice("train")),
            Batches(val, self.val_batch, self.dice("val")),
        )
        ids, beam = ["0"], ["0"]
        if self.validate_start:
            self.best = ("0", self.mean("0", everything))
        for number in range(1, self.rounds + 1):
            if len(beam) < self.width:
                parents = [beam[i % len(beam)] for i in range(self.width)]
            else:
                parents = self.state.rng("parents", number).sample(beam, self.width)
            children = []
            for parent in parents:
                for _ in range(self.branch):
                    self.paid.update((parent, Place("train", task)) for task in train_batches.next())
                    children.append(f"{number}.{len(children)} of v{ids.index(parent)}")
            ids += children
            batch = val_batches.next()
            scores = {text: self.mean(text, batch) for text in [*beam, *children]}
            beam = sorted(scores, key=lambda text: -scores[text])[: self.width]
            score = self.mean(beam[0], everything)
            if score > self.best[1]:
                self.best = (beam[0], score)
            self.beams.append(beam)
        return self


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("width", "branch", "val_batch", "rounds", "validate_start"),
    [(4, 4, 5, 3, True), (2, 2, 3, 4, False), (3, 1, 8, 3, True), (1, 2, 20, 2, False)],
)
async def test_decisions_and_rollouts_are_those_of_the_text(
    seed: int, width: int, branch: int, val_batch: int, rounds: int, validate_start: bool
) -> None:
    state = make_state(noisy(), val=8, train=10, seed=seed)
    by_hand = ByHand(noisy(), state, width, branch, val_batch, rounds, validate_start).run(8, 10)
    state.rounds = []

    await optimise(state, documented(width, branch, val_batch, rounds, validate_start))

    texts = {candidate.id: candidate.texts["prompt"] for candidate in state.candidates}
    assert [[texts[each] for each in now.archive] for now in state.rounds] == by_hand.beams
    assert state.best is not None
    assert state.best.texts["prompt"] == by_hand.best[0]
    assert state.mean(state.best) == pytest.approx(by_hand.best[1])
    assert set(table_of(state).paid) == by_hand.paid
    assert len(table_of(state).paid) == len(by_hand.paid)


async def test_only_the_leader_of_the_batch_can_become_the_best() -> None:
    # Batches of one of two tasks: "1.1 of v0" is better on both, but "1.0 of v0" ties on the batch and is older.
    table = {"0": [0.0, 0.0], "1.0 of v0": [1.0, 0.1], "1.1 of v0": [1.0, 1.0]}
    other_way = {text: row[::-1] for text, row in table.items()}
    for seed in range(4):
        state = make_state(rows(table), val=2, train=2, seed=seed)
        first = Batches(2, 1, lambda epoch, state=state: state.rng("val", epoch)).at(0)
        state = make_state(rows(table if first == [0] else other_way), val=2, train=2, seed=seed)
        state.rounds = []
        await optimise(state, documented(1, 2, 1, 1))
        assert state.best is not None
        assert state.best.texts["prompt"] == "1.0 of v0"
        assert {place for text, place in table_of(state).paid if text == "1.1 of v0"} == {Place("val", first[0])}


async def test_an_equal_leader_does_not_replace_the_best() -> None:
    state = make_state(lambda text, place: 0.5, val=4, train=4)
    state.rounds = []
    await optimise(state, documented(2, 2, 2, 2))
    assert state.best is not None
    assert state.best.id == "v0"
    assert state.rounds[-1].archive == ["v0", "v1"]
