"""Credit rules on the training path: other rules, other gradients, each worked by hand; rules in configurations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agentlightning.adapter import episode_from_spans
from agentlightning.credit import get_credit, relative
from agentlightning.learner.advantages import requirements
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.objectives import Policy
from agentlightning.learner.schedule import Schedule
from agentlightning.types import Attempt, AttemptedRollout, ConfigError, Episode, TrainingError
from agentlightning.verl.config import load_config
from agentlightning.verl.config.credit import OF_RETURNS
from agentlightning.verl.config.schema import ESTIMATORS
from agentlightning.verl.rows import score
from agentlightning.verl.sample import Sample
from tests.adapter.spans import llm_call, reward
from tests.learner.conftest import make_model

from .batches import batches, numbers, valued

# Two rollouts of one task with two turns each: prompt [1, 2], answer, tool's text, answer.
FIRST = ([1, 2], [3, 4], [5], [6])
SECOND = ([1, 2], [7], [8, 9], [10, 11])


def config(**changes: Any):
    base = {
        "algorithm.adv_estimator": "grpo",
        "actor_rollout_ref.model.path": "m",
        "data.train_batch_size": 1,
        "actor_rollout_ref.rollout.n": 2,
    }
    return load_config({**base, **changes}).config


def sample(number: int, turns: Any, rewards: tuple[float | None, float | None], model: Any) -> Sample:
    """A rollout of two turns, from spans, with the log-probs that the model gives its answers."""
    prompt, answer, tool, last = turns
    spans = [llm_call(1, prompt, answer), llm_call(3, [*prompt, *answer, *tool], last)]
    for span in spans:
        call = span.token_call
        ids = [*call.prompt_ids.tolist(), *call.response_ids.tolist()]
        known = len(call.prompt_ids)
        with torch.no_grad():
            logprobs = torch.log_softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0], -1)
        call.logprobs[:] = [float(logprobs[at - 1, ids[at]]) for at in range(known, len(ids))]
    spans += [reward(seq, value) for seq, value in zip((2, 4), rewards, strict=True) if value is not None]
    attempt = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0, status="succeeded")
    rollout = AttemptedRollout(rollout_id="ro-1", input=0, start_time=0.0, status="succeeded", attempt=attempt)
    return Sample(0, number, rollout, {"main_llm": episode_from_spans(spans, "ro-1")}, None)


def two_turn_task(model: Any) -> list[list[Sample]]:
    return [[sample(0, FIRST, (None, 1.0), model), sample(1, SECOND, (None, 0.0), model)]]


def learned(model: Any, groups: list[list[Sample]], cfg: Any, credit: Any) -> dict[str, torch.Tensor]:
    """The gradient that the real learner takes for a mini-batch."""
    (rows,) = batches(groups, cfg, get_credit(credit))
    learner = Learner(model, optimizer=OptimizerConfig(lr=0.0, grad_clip=1e9), schedule=Schedule(1), threads=1)
    seen: dict[str, torch.Tensor] = {}
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: seen.update({name: p.grad.clone()}))
        for name, parameter in learner.parameters.items()
    ]
    learner.update(rows, Policy(loss_mode="vanilla", config=cfg.actor_rollout_ref.actor.model_dump()))
    for handle in handles:
        handle.remove()
    return seen


def worked(model: Any, advantages: list[dict[str, float]]) -> dict[str, torch.Tensor]:
    """The same by hand: at a ratio of 1 the loss of a token is `-A log p`, averaged over the trained tokens.

    Args:
        advantages: For each rollout, by turn (`first`, `last`): its advantage. A turn that is not there is not trained.
    """
    loss, count = torch.zeros(()), 0
    for (prompt, answer, tool, last), of_turn in zip((FIRST, SECOND), advantages, strict=True):
        ids = [*prompt, *answer, *tool, *last]
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0], -1)
        for turn, start, size in (("first", len(prompt), len(answer)), ("last", len(ids) - len(last), len(last))):
            if turn in of_turn:
                count += size
                for at in range(start, start + size):
                    loss = loss - of_turn[turn] * logprobs[at - 1, ids[at]]
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss / count, parameters), strict=True))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], atol=1e-6, rtol=1e-4) for n in one)


U = 0.5 / (0.5**0.5 + 1e-6)
"""Advantage of the better one of rewards 1 and 0: half a difference over the sample deviation."""
CASES: dict[str, tuple[Any, list[dict[str, float]]]] = {
    "identical": ("identical", [{"first": U, "last": U}, {"first": -U, "last": -U}]),
    "last_turn": ("last_turn", [{"last": U}, {"last": -U}]),
    # Scores are the means over the turns, 0.75 and 0; deviation 0.75 / sqrt(2). A turn is moved by its distance from
    # its rollout's score in units of the deviation: (0.5 - 0.75) and (1 - 0.75).
    "discounted": (
        {"name": "discounted", "gamma": 0.5},
        [
            {
                "first": 0.375 / (0.75 / 2**0.5 + 1e-6) - 0.25 / (0.75 / 2**0.5),
                "last": 0.375 / (0.75 / 2**0.5 + 1e-6) + 0.25 / (0.75 / 2**0.5),
            },
            {"first": -0.375 / (0.75 / 2**0.5 + 1e-6), "last": -0.375 / (0.75 / 2**0.5 + 1e-6)},
        ],
    ),
    # First turns have no reward, so only the last ones are compared.
    "per_turn": ("per_turn", [{"last": U}, {"last": -U}]),
    "group_relative_per_turn": ("group_relative_per_turn", [{"first": U, "last": U}, {"first": -U, "last": -U}]),
    # One agent without a reward of its own earns the final one in every turn.
    "by_agent": ("by_agent", [{"first": U, "last": U}, {"first": -U, "last": -U}]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_a_two_turn_task_is_the_one_worked_by_hand(name: str) -> None:
    credit, advantages = CASES[name]
    model = make_model()
    assert same(learned(model, two_turn_task(model), config(), credit), worked(model, advantages))


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_in_closed_form(name: str) -> None:
    """Without autograd: the output layer's bias has the gradient `A (p - onehot)`, averaged over the trained tokens."""
    credit, advantages = CASES[name]
    model = make_model()
    model.lm_head.bias = torch.nn.Parameter(torch.randn(50, dtype=torch.float64))
    expected, count = torch.zeros(50, dtype=torch.float64), 0
    for (prompt, answer, tool, last), of_turn in zip((FIRST, SECOND), advantages, strict=True):
        ids = [*prompt, *answer, *tool, *last]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        turn_of = {len(prompt) + at: "first" for at in range(len(answer))}
        turn_of |= {len(ids) - 1 - at: "last" for at in range(len(last))}
        for at, turn in turn_of.items():
            if turn in of_turn:
                weights = logits[at - 1].exp()
                error = weights / weights.sum()
                error[ids[at]] -= 1
                expected += of_turn[turn] * error
                count += 1
    found = learned(model, two_turn_task(model), config(), credit)["lm_head.bias"]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected / count, rtol=1e-6, atol=1e-8)


def test_identical_and_last_turn_learn_different_things() -> None:
    model = make_model()
    groups = two_turn_task(model)
    every, last = (learned(model, groups, config(), rule) for rule in ("identical", "last_turn"))
    assert not same(every, last)
    assert max(float((every[name] - last[name]).abs().max()) for name in every) > 1e-3


def test_a_relative_rule_is_taken_at_its_word() -> None:
    @relative
    def mine(episode: Episode, group: Any) -> list[float | None]:
        return [2.0, None] if episode.reward else [None, -3.0]

    model = make_model()
    assert same(learned(model, two_turn_task(model), config(), mine), worked(model, [{"first": 2.0}, {"last": -3.0}]))


def test_turns_with_rewards_of_their_own_are_compared_turn_by_turn() -> None:
    """Per-turn rewards (1, 0) and (0, 1): as rollouts a tie, as turns opposites."""
    model = make_model()
    groups = [[sample(0, FIRST, (1.0, 0.0), model), sample(1, SECOND, (0.0, 1.0), model)]]
    rule = {"name": "group_relative_per_turn", "gamma": 0.0}
    expected = worked(model, [{"first": U, "last": -U}, {"first": -U, "last": U}])
    assert same(learned(model, groups, config(), rule), expected)


def test_a_rollout_that_gave_no_reward_counts_with_the_fill_on_its_last_turn() -> None:
    model = make_model()
    groups = [[sample(0, FIRST, (None, None), model), sample(1, SECOND, (None, 1.0), model)]]
    found = numbers(valued(groups, config(), get_credit("group_relative_per_turn")))
    assert found == [[pytest.approx(-U)] * 2, [pytest.approx(U)] * 2]
    assert groups[0][0].episode.turns[-1].reward is None, "the episode itself keeps saying that there was none"


@pytest.mark.parametrize("wrong", [[1.0], [1.0, float("nan")], [1.0, "high"], [np.inf, None]])
def test_a_rule_that_returns_nonsense_is_named(wrong: Any) -> None:
    groups = two_turn_task(make_model())
    with pytest.raises(TrainingError, match=r"credit rule returned .* for rollout ro-1 of 2 turns"):
        score(groups, "main_llm", lambda episode, group: wrong)


# -- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"agentlightning.credit": "last_turn"}, "last_turn"),
        ({"agentlightning": {"credit": {"name": "discounted", "gamma": 0.9}}}, {"name": "discounted", "gamma": 0.9}),
        (
            {"agentlightning.credit.name": "discounted", "agentlightning.credit.gamma": 0.9},
            {"name": "discounted", "gamma": 0.9},
        ),
        (
            {"agentlightning.credit": "discounted", "agentlightning.credit.gamma": 0.9},
            {"name": "discounted", "gamma": 0.9},
        ),
        (
            {"agentlightning.credit": {"name": "by_agent", "rewards": {"solver": "quality"}}},
            {"name": "by_agent", "rewards": {"solver": "quality"}},
        ),
    ],
)
def test_a_configuration_names_a_rule_and_its_parameters(overrides: dict[str, Any], expected: Any) -> None:
    assert config(**overrides).agentlightning.credit == expected


def test_the_command_line_does_so_too() -> None:
    words = ["algorithm.adv_estimator=grpo", "actor_rollout_ref.model.path=m", "actor_rollout_ref.rollout.n=2"]
    given = load_config([*words, "agentlightning.credit={name: discounted, gamma: 0.9}"]).config
    assert given.agentlightning.credit == {"name": "discounted", "gamma": 0.9}


def test_a_later_layer_adds_parameters_or_replaces_the_rule() -> None:
    base = {
        "algorithm.adv_estimator": "grpo",
        "actor_rollout_ref.model.path": "m",
        "agentlightning.credit": {"name": "per_turn", "gamma": 0.9},
    }

    def credit(overrides: dict[str, Any]) -> Any:
        return load_config(overrides, base=base).config.agentlightning.credit

    assert credit({"agentlightning.credit.gamma": 0.5}) == {"name": "per_turn", "gamma": 0.5}
    assert credit({"agentlightning.credit": "identical"}) == "identical"
    assert credit({"agentlightning.credit.name": "discounted"}) == {"name": "discounted"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"agentlightning.credit": "identcal"}, "'identcal' is no credit rule; known are identical"),
        ({"agentlightning.credit.gamma": 0.9}, "the rule `identical` has no such parameter; it has none"),
        ({"agentlightning.credit": {"name": "discounted", "gama": 0.9}}, r"it has `gamma`"),
        ({"agentlightning.credit": {"name": "discounted", "gamma": 7}}, "from 0 to 1, not 7"),
        (
            {"agentlightning.credit": "group_relative_per_turn", "actor_rollout_ref.rollout.n": 1},
            "compares the rollouts of one task, and `actor_rollout_ref.rollout.n` is 1; make it 2 or more",
        ),
        (
            {"agentlightning.credit": "by_agent", "algorithm.adv_estimator": "gae"},
            "'by_agent' gives advantages, so that `algorithm.adv_estimator` 'gae' would do nothing; set it to 'grpo'",
        ),
        (
            {"agentlightning.credit": "by_agent", "algorithm.use_kl_in_reward": True},
            "takes nothing off; use `actor_rollout_ref.actor.use_kl_loss`",
        ),
        (
            {"agentlightning.credit": "discounted", "algorithm.adv_estimator": "reinforce_plus_plus"},
            "'discounted' gives a turn what was earned after it, and .* 'reinforce_plus_plus' sums that up itself",
        ),
        (
            {"agentlightning.credit": {"name": "per_turn", "gamma": 0.5}, "algorithm.adv_estimator": "gae"},
            "'per_turn' gives a turn what was earned after it",
        ),
    ],
)
def test_a_rule_that_cannot_be_is_refused_before_anything_runs(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**overrides)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_a_turn_earned_itself_goes_with_every_estimator(name: str) -> None:
    """And the estimators that sum up rewards are those that read more than their sum."""
    keys = {"algorithm.gdpo_reward_keys": ["a"]} if name == "gdpo" else {}
    assert config(**{"agentlightning.credit": "per_turn", "algorithm.adv_estimator": name, **keys})
    assert (name in OF_RETURNS) == (not requirements(name).outcome)
