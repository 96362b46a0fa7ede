"""Presets, and strategies by name."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.algorithm.apo.plan import PRESETS, plan_of
from agentlightning.algorithm.apo.strategies import (
    STRATEGIES,
    AnyOf,
    Beam,
    Everyone,
    Full,
    LittleRoom,
    Minibatch,
    Never,
    Pareto,
    SharedBatch,
    build,
)
from agentlightning.types import ConfigError

from .table import Numbered


def test_the_documented_plan_has_the_documented_numbers() -> None:
    plan = plan_of(proposer=Numbered())
    assert isinstance(plan.selector, Beam)
    assert (plan.selector.width, plan.selector.branch_factor, plan.rounds) == (4, 4, 3)
    assert plan.evaluator == SharedBatch(16)
    assert (plan.gate, plan.stopper, plan.validate_start, plan.share) == (Everyone(), Never(), True, "job")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_built(preset: str) -> None:
    plan = plan_of(preset)
    assert plan.rounds > 0
    assert plan.proposer.batch_size > 0


def test_the_selector_ranks_as_the_evaluator_does() -> None:
    plan = plan_of("gepa", proposer=Numbered())
    assert isinstance(plan.selector, Pareto)
    assert plan.selector.rank == plan.evaluator.rank


def test_single_options_of_a_preset_can_be_changed() -> None:
    plan = plan_of("gepa", selector={"children": 3}, gate={"strict": False}, proposer=Numbered(), rounds=5)
    assert isinstance(plan.selector, Pareto)
    assert (plan.selector.children, plan.rounds) == (3, 5)
    assert plan.gate == Minibatch(strict=False, perfect=1.0)


def test_a_strategy_can_be_replaced_by_name_or_by_an_object() -> None:
    gate = Minibatch()
    plan = plan_of("gepa", selector={"name": "beam", "width": 2}, evaluator="full", gate=gate, proposer=Numbered())
    assert isinstance(plan.selector, Beam)
    assert plan.evaluator == Full()
    assert plan.gate is gate


def test_several_stoppers_are_a_list() -> None:
    plan = plan_of(stopper=["never", {"name": "little_room", "rollouts": 9}], proposer=Numbered())
    assert plan.stopper == AnyOf([Never(), LittleRoom(9)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "best"}, "`preset` 'best' is unknown; there are 'documented', 'protegi', 'gepa', 'auto'"),
        ({"gates": "none"}, "a plan has no `gates`; it has `selector`, `proposer`, `gate`"),
        ({"gate": "strict"}, "`gate` 'strict' is unknown; there are `none`, `minibatch`, `paired_test`"),
        ({"selector": {"width": 4, "size": 2}}, "`selector` 'beam' has no option `size`; it has `width`"),
        ({"selector": {"name": "beam", "rank": 1}}, "`selector` 'beam' has no option `rank`"),
        ({"gate": {"strict": True}}, "`gate` 'none' has no option `strict`; it has none"),
        ({"rounds": -1}, "`rounds` must be a whole number from 0, not -1"),
        ({"share": "all"}, "`share` must be one of ('job', 'parent', 'round'), not 'all'"),
    ],
)
def test_what_is_unknown_is_refused_with_what_there_is(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(**{"proposer": Numbered(), **changes})
    assert message in str(caught.value)


def test_options_for_a_list_of_stoppers_are_refused() -> None:
    with pytest.raises(ConfigError, match="give the whole list anew"):
        plan_of("auto", stopper={"rounds": 3}, proposer=Numbered())


@pytest.mark.parametrize("kind", [kind for kind in STRATEGIES if kind not in ("selector", "proposer")])
def test_every_strategy_has_vetted_defaults(kind: Any) -> None:
    for name in STRATEGIES[kind]:
        assert build(kind, name) == build(kind, {"name": name})
