"""Invariants over random traces, run for real: agents that interleave, branch, sample several answers, stream or not,
speak any interface and ask another model, while the weights change under them.

1. A path is exactly what the engine saw. 2. Only tokens that the policy in training sampled are trained; all others
have no gradient. 4. Versions never decrease along a path. 6. The learner's log-probs are those that were recorded.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from agentlightning.adapter import episode_from_spans
from agentlightning.inference.sampling import Generation
from agentlightning.learner.batch import Row
from agentlightning.learner.forward import micro_batches
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.objectives import CrossEntropy, Objective, Policy
from agentlightning.learner.schedule import Schedule
from agentlightning.types import Episode, TokenCall, Trajectory

from .traces import TEMPERATURE, Traced, trace

FIRST_SEED = int(os.environ.get("TRACE_SEED", "0"))
SEEDS = range(FIRST_SEED, FIRST_SEED + 3)
Case = tuple[Traced, list[Episode]]


@pytest.fixture(scope="module", params=SEEDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A trace, and its rollouts as training sees them."""
    traced = asyncio.run(trace(tmp_path_factory.mktemp("trace"), request.param))
    return traced, [episode_from_spans(spans, rollout, model="main") for rollout, spans in traced.spans.items()]


def trajectories(case: Case) -> list[Trajectory]:
    return [trajectory for episode in case[1] for trajectory in episode.trajectories]


def seen(call: TokenCall | Generation) -> tuple[Any, ...]:
    response = call.response_ids if isinstance(call, TokenCall) else call.token_ids
    assert call.logprobs is not None
    return call.prompt_ids.tobytes(), response.tobytes(), call.logprobs.tobytes(), call.weights_version


def test_the_traces_are_worth_looking_at(case: Case) -> None:
    """Else the tests below could not fail."""
    traced, episodes = case
    assert len(traced.main.weights) > 2
    assert traced.judge.generated
    turns = [turn for episode in episodes for turn in episode.turns]
    assert len({turn.call.weights_version for turn in turns}) > 1
    assert len(turns) > len(trajectories(case)), "some turns continue others"
    assert any(len(set(each.versions[each.sampled].tolist())) > 1 for each in trajectories(case)), "across an update"
    prompts = Counter(turn.call.prompt_ids.tobytes() for turn in turns)
    assert max(prompts.values()) > 1, "some prompts have several answers"


def test_every_generation_is_on_record_and_nothing_else(case: Case) -> None:
    traced, _ = case
    for policy in (traced.main, traced.judge):
        calls = [s.token_call for spans in traced.spans.values() for s in spans if s.token_call is not None]
        own = [call for call in calls if call.model == policy.name]
        assert Counter(map(seen, own)) == Counter(map(seen, policy.generated))
        assert all(call.temperature == TEMPERATURE for call in own)


def test_a_path_is_what_the_engine_saw(case: Case) -> None:
    """Invariant 1: at each trained answer, all that stands before it, and the answer, token for token."""
    traced, episodes = case
    generated = Counter(map(seen, traced.main.generated))
    trained = Counter[tuple[Any, ...]]()
    for episode in episodes:
        for trajectory in episode.trajectories:
            for turn, call in trajectory.calls.items():
                start, end = len(call.prompt_ids), len(call.prompt_ids) + len(call.response_ids)
                assert trajectory.token_ids[:start].tolist() == episode.turns[turn].call.prompt_ids.tolist()
                assert trajectory.token_ids[start:end].tolist() == episode.turns[turn].call.response_ids.tolist()
                trained[seen(call)] += 1
            ends = [len(call.prompt_ids) + len(call.response_ids) for call in trajectory.calls.values()]
            assert max(ends) == len(trajectory.token_ids), "a path ends with an answer"
    assert trained == generated, "each answer is trained once"


def test_only_sampled_tokens_of_the_policy_are_trained(case: Case) -> None:
    """Invariant 2, on the masks."""
    traced, _ = case
    for trajectory in trajectories(case):
        expected = np.zeros(len(trajectory.token_ids), bool)
        for call in trajectory.calls.values():
            assert call.model == "main"
            expected[len(call.prompt_ids) : len(call.prompt_ids) + len(call.response_ids)] = True
        assert trajectory.sampled.tolist() == expected.tolist()
    count = sum(int(trajectory.sampled.sum()) for trajectory in trajectories(case))
    assert count == sum(len(each.token_ids) for each in traced.main.generated)


class HiddenGradients:
    """The gradients that a training step sends into the last hidden states: one row for each token."""

    def __init__(self, model: Any) -> None:
        self.rows: list[torch.Tensor] = []
        self._handle = model.model.norm.register_forward_hook(self._forward)

    def _forward(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: self.rows.append(gradient.reshape(-1, gradient.shape[-1]).clone()))

    def __enter__(self) -> HiddenGradients:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def rows_of(case: Case, *, only: int | None = None, advantages: bool = False) -> list[tuple[Trajectory, Row]]:
    """The rows of all trajectories, with the tokens of one version of the weights or of all."""
    rng, found = np.random.default_rng(0), list[tuple[Trajectory, Row]]()
    for trajectory in trajectories(case):
        mask = trajectory.sampled if only is None else trajectory.versions == only
        if mask.any():
            size = int(mask.sum())
            columns = {"weights": np.full(size, 1 / size, np.float32), "old_logprobs": trajectory.logprobs[mask]}
            if advantages:
                columns["advantages"] = rng.normal(size=size).astype(np.float32)
            found.append((trajectory, Row(trajectory.token_ids, mask, columns)))
    return found


def still(model: Any, budget: int = 10**6) -> Learner:
    """A learner whose steps change nothing."""
    optimizer = OptimizerConfig(lr=0.0, weight_decay=0.0, grad_clip=1e9)
    return Learner(model, optimizer=optimizer, schedule=Schedule(1), token_budget=budget, threads=1)


@pytest.mark.parametrize("objective", [CrossEntropy(TEMPERATURE), Policy(temperature=TEMPERATURE)])
def test_all_other_tokens_have_no_gradient(case: Case, objective: Objective) -> None:
    """Invariant 2, on the gradients of the real learner: a hidden state has one if, and only if, it predicts a token
    that is trained. Of the clipped loss only the second half holds: a token whose ratio is clipped has none."""
    model, rows = case[0].main.model, rows_of(case, advantages=True)
    with HiddenGradients(model) as gradients:
        still(model).update([row for _, row in rows], objective)
    (hidden,) = gradients.rows
    ((_, batch),) = micro_batches([row for _, row in rows], 10**6, torch.device("cpu"))  # shared prefixes stand once
    assert len(hidden) == len(batch.input_ids_T)
    trained = np.zeros(len(hidden), bool)
    trained[batch.predict_N.numpy()] = True
    has_gradient = (hidden != 0).any(-1).numpy()
    assert not has_gradient[~trained].any()
    if isinstance(objective, CrossEntropy):
        assert has_gradient[trained].all()
    else:
        assert has_gradient[trained].any()


def test_versions_never_decrease_along_a_path(case: Case) -> None:
    """Invariant 4."""
    for trajectory in trajectories(case):
        versions = trajectory.versions[trajectory.sampled]
        assert (np.diff(versions) >= 0).all()


@pytest.mark.parametrize("budget", [1, 60, 10**6])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_learners_logprobs_are_the_recorded_ones(case: Case, budget: int, order: int) -> None:
    """Invariant 6: under the weights of each version, however the rows are packed and in any order."""
    model, weights = case[0].main.model, case[0].main.weights
    last = {name: value.clone() for name, value in model.state_dict().items()}
    checked = 0
    try:
        for version, state in weights.items():
            model.load_state_dict(state)
            rows = rows_of(case, only=version)
            shuffled = [rows[at] for at in np.random.default_rng(order).permutation(len(rows))]
            found = still(model, budget).logprobs([row for _, row in shuffled], TEMPERATURE)
            for (trajectory, row), logprobs in zip(shuffled, found, strict=True):
                np.testing.assert_allclose(logprobs, trajectory.logprobs[row.mask], atol=2e-5, rtol=0)
                checked += len(logprobs)
    finally:
        model.load_state_dict(last)
    assert checked == sum(int(trajectory.sampled.sum()) for trajectory in trajectories(case))


def test_the_weights_of_another_version_give_other_logprobs(case: Case) -> None:
    """So the test above is about versions too."""
    traced = case[0]
    model, last = traced.main.model, max(traced.main.weights)
    model.load_state_dict(traced.main.weights[last])
    first = min(version for version in traced.main.weights if rows_of(case, only=version))
    rows = rows_of(case, only=first)
    found = still(model).logprobs([row for _, row in rows], TEMPERATURE)
    gaps = [np.abs(new - each.logprobs[row.mask]).max() for (each, row), new in zip(rows, found, strict=True)]
    assert max(gaps) > 1e-3
