"""Which children are worth validation rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agentlightning.algorithm.apo.candidate import Candidate
from agentlightning.algorithm.apo.outcome import Place
from agentlightning.algorithm.apo.state import State
from agentlightning.algorithm.apo.strategies import Everyone, Job, Minibatch, PairedTest

from ..table import add, make_state, rows, table_of

TABLE = {"0": [0, 0, 1, 0], "better": [1, 0, 1, 0], "equal": [0, 1, 0, 0], "worse": [0, 0, 0, 0], "best": [1, 1, 1, 1]}


async def pairs_of(state: State, texts: Sequence[str], tasks: Sequence[int]) -> list[tuple[Job, Candidate]]:
    parent = state.candidates[0]
    outcomes = await state.trials.run([(parent, Place("train", task)) for task in tasks])
    children = add(state, *texts)
    return [(Job(number, parent, "prompt", outcomes), child) for number, child in enumerate(children)]


def texts(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.texts["prompt"] for candidate in candidates]


async def test_no_gate_lets_all_through_for_nothing() -> None:
    state = make_state(rows(TABLE))
    pairs = await pairs_of(state, ["worse", "better"], range(4))
    assert texts(await Everyone().passed(state, pairs)) == ["worse", "better"]
    assert len(table_of(state).paid) == 4


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (Minibatch(), ["better", "best"]),
        (Minibatch(strict=False), ["better", "equal", "best"]),
        (PairedTest(level=0.5), ["better", "best"]),
        (PairedTest(level=0.125), ["best"]),
    ],
)
async def test_children_are_compared_on_their_parents_batch(gate: Minibatch | PairedTest, expected: list[str]) -> None:
    state = make_state(rows(TABLE))
    pairs = await pairs_of(state, ["better", "equal", "worse", "best"], range(4))
    assert texts(await gate.passed(state, pairs)) == expected
    assert table_of(state).calls == [4, 16]
    assert {place.split for _, place in table_of(state).paid} == {"train"}


async def test_children_of_a_perfect_parent_are_dropped_without_a_rollout() -> None:
    state = make_state(rows({"0": [1, 1, 0, 0], "child": [1, 1, 1, 1]}))
    pairs = await pairs_of(state, ["child"], [0, 1])
    assert await Minibatch(perfect=1.0).passed(state, pairs) == []
    assert len(table_of(state).paid) == 2
    assert await Minibatch(strict=False).passed(state, pairs) == [pairs[0][1]]


async def test_little_room_shortens_all_batches_alike() -> None:
    # 4 rollouts of the parent; 5 more allow two tasks for each of two children.
    state = make_state(rows(TABLE), rollouts=9)
    pairs = await pairs_of(state, ["better", "best"], range(4))
    assert texts(await Minibatch().passed(state, pairs)) == ["better", "best"]
    assert [place.task for _, place in table_of(state).paid[4:]] == [0, 1, 0, 1]


async def test_no_room_lets_nobody_through() -> None:
    state = make_state(rows(TABLE), rollouts=4)
    pairs = await pairs_of(state, ["best"], range(4))
    assert await Minibatch().passed(state, pairs) == []
    assert await PairedTest().passed(state, pairs) == []


@pytest.mark.parametrize("gate", [Minibatch(), PairedTest()])
async def test_where_the_parent_was_not_tried_there_is_nothing_to_compare(gate: Minibatch | PairedTest) -> None:
    state = make_state(rows(TABLE))
    pairs = await pairs_of(state, ["worse"], [])
    assert texts(await gate.passed(state, pairs)) == ["worse"]
