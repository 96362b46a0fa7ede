"""When a run ends before its rounds are over."""

from __future__ import annotations

from agentlightning.algorithm.apo.outcome import Place
from agentlightning.algorithm.apo.state import Round
from agentlightning.algorithm.apo.strategies import AnyOf, LittleRoom, Never, NoImprovement, NothingNew, Target

from ..table import add, make_state, on_val, rows


def reasons(best: list[str], patience: int) -> list[bool]:
    """Whether it stops after each round, given the best of each."""
    state = make_state(lambda text, place: 0.0)
    state.rounds, stops = [], []
    for number, each in enumerate(best, 1):
        state.rounds.append(Round(number, best=each))
        stops.append(NoImprovement(patience).reason(state) is not None)
    return stops


def test_rounds_without_a_better_prompt_are_counted_from_the_start_on() -> None:
    assert reasons(["v0", "v0", "v0"], 2) == [False, True, True]
    assert reasons(["v1", "v1", "v2", "v2", "v2"], 2) == [False, False, False, False, True]


def test_rounds_that_only_repeat_prompts_end_a_run() -> None:
    state = make_state(lambda text, place: 0.0)
    state.rounds, stops = [], []
    for number, admitted in enumerate((["v1"], [], [], ["v2"], [], [], []), 1):
        state.rounds.append(Round(number, admitted=admitted))
        stops.append(NothingNew(3).reason(state) is not None)
    assert stops == [False] * 6 + [True]


async def test_a_target_is_met_on_all_of_validation() -> None:
    state = make_state(rows({"0": [1.0, 0.5]}), val=2)
    assert Target(0.75).reason(state) is None
    await on_val(state, state.candidates[0], [0])
    assert Target(0.75).reason(state) is None
    await on_val(state, state.candidates[0], [1])
    assert Target(0.75).reason(state) == "the best prompt has 0.75 on validation, target 0.75"
    assert Target(0.76).reason(state) is None


async def test_little_room_is_a_number_or_a_share_of_all() -> None:
    state = make_state(lambda text, place: 0.0, rollouts=40)
    assert LittleRoom(rollouts=40, share=1.0).reason(state) is None
    await state.trials.run([(candidate, Place("train", 0)) for candidate in add(state, "a", "b", "c", "d")])
    assert LittleRoom(rollouts=36).reason(state) is None
    assert LittleRoom(rollouts=37).reason(state) == "the budget allows 36 more rollouts, too few for a round"
    assert LittleRoom(share=0.9).reason(state) is None
    assert LittleRoom(share=0.91).reason(state) is not None
    assert LittleRoom(rollouts=1000).reason(make_state(lambda text, place: 0.0)) is None


def test_the_first_of_several_reasons_counts() -> None:
    state = make_state(lambda text, place: 0.0, rollouts=5)
    assert AnyOf([Never(), LittleRoom(9), LittleRoom(7)]).reason(state) == LittleRoom(9).reason(state)
    assert AnyOf([Never()]).reason(state) is None
