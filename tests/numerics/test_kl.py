"""KL estimators in value and gradient, KL in the reward, and the controllers, against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from agentlightning.learner.kl import (
    KL_KINDS,
    AdaptiveKLController,
    FixedKLController,
    apply_kl_penalty,
    kl_penalty,
    make_kl_controller,
)
from agentlightning.types import ConfigError

GAPS = [0.5, -0.25, 0.0, 2.0]


def penalty(kind: str, gaps: list[float]) -> tuple[list[float], list[float]]:
    """Values, and gradients with respect to the policy's log-probs."""
    reference = torch.full((len(gaps),), -3.0, dtype=torch.float64)
    log_prob = (reference + torch.tensor(gaps, dtype=torch.float64)).requires_grad_()
    values = kl_penalty(log_prob, reference, kind)
    (gradient,) = torch.autograd.grad(values.sum(), log_prob)
    return values.tolist(), gradient.tolist()


VALUES = {
    "kl": GAPS,
    "k1": GAPS,
    "abs": [0.5, 0.25, 0.0, 2.0],
    "mse": [0.125, 0.03125, 0.0, 2.0],
    "k2": [0.125, 0.03125, 0.0, 2.0],
    # exp(-d) + d - 1
    "low_var_kl": [math.exp(-0.5) - 0.5, math.exp(0.25) - 1.25, 0.0, math.exp(-2) + 1],
    "k3": [math.exp(-0.5) - 0.5, math.exp(0.25) - 1.25, 0.0, math.exp(-2) + 1],
}
GRADIENTS = {
    "kl": [1.0] * 4,
    "k1": [1.0] * 4,
    "abs": [1.0, -1.0, 0.0, 1.0],
    "mse": GAPS,
    "k2": GAPS,
    "low_var_kl": [1 - math.exp(-d) for d in GAPS],
    "k3": [1 - math.exp(-d) for d in GAPS],
}


def test_all_kinds_are_covered():
    assert set(KL_KINDS) == {*VALUES, *(f"{kind}+" for kind in VALUES)}


@pytest.mark.parametrize("kind", VALUES)
def test_estimators_by_hand(kind: str):
    values, gradient = penalty(kind, GAPS)
    assert values == pytest.approx(VALUES[kind], abs=1e-12)
    assert gradient == pytest.approx(GRADIENTS[kind], abs=1e-12)


@pytest.mark.parametrize("kind", VALUES)
def test_a_plus_keeps_the_value_and_takes_the_gradient_of_k2(kind: str):
    values, gradient = penalty(f"{kind}+", GAPS)
    assert values == pytest.approx(VALUES[kind], abs=1e-12)
    assert gradient == pytest.approx(GAPS, abs=1e-12)


def test_k3_is_held_within_bounds():
    # d = 3: far from both; d = -2.5: exp(2.5) - 3.5 = 8.68; d = -3: exp(3) - 4 > 10; d = 25: exp(-20) + 19 > 10
    values, gradient = penalty("k3", [3.0, -2.5, -3.0, -1000.0, 25.0])
    assert values == pytest.approx([math.exp(-3) + 2, math.exp(2.5) - 3.5, 10.0, 10.0, 10.0], abs=1e-12)
    assert gradient == pytest.approx([1 - math.exp(-3), 1 - math.exp(2.5), 0.0, 0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("kind", VALUES)
def test_gradients_equal_finite_differences(kind: str):
    log_prob = torch.tensor([-1.0, -2.0, -0.3], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.5, -1.2, -0.7], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: kl_penalty(x, reference, kind), (log_prob,))


@pytest.mark.parametrize("kind", ["full", "full+", "k4", "+", "", "k3++"])
def test_other_kinds_are_refused(kind: str):
    with pytest.raises(NotImplementedError, match="is not one of kl, k1"):
        kl_penalty(torch.zeros(1), torch.zeros(1), kind)


def test_kl_in_the_reward_by_hand():
    nan = float("nan")
    rewards, current = apply_kl_penalty(
        token_level_scores=torch.tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 0.0], [3.0, 0.0, 0.0]], dtype=torch.float64),
        old_log_probs=torch.tensor([[-1.0, nan, -2.0], [-1.0, -1.0, -1.0], [nan, nan, nan]], dtype=torch.float64),
        ref_log_probs=torch.tensor([[-1.5, -1.0, -2.1], [-1.0, -3.0, nan], [0.0, 0.0, nan]], dtype=torch.float64),
        response_mask=torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0]]),
        kind="kl",
        coefficient=0.1,
    )
    assert rewards.tolist() == [
        pytest.approx([-0.05, 0.0, 0.99]),
        pytest.approx([2.0, -0.2, 0.0]),
        [3.0, 0.0, 0.0],
    ]
    assert current == pytest.approx((0.3 + 1.0 + 0.0) / 3, abs=1e-7)  # the row without a token counts as 0


def test_kl_in_the_reward_leaves_its_inputs_alone():
    columns = [torch.randn(2, 3) for _ in range(3)]
    before = [column.clone() for column in columns]
    rewards, _ = apply_kl_penalty(*columns, torch.ones(2, 3), "kl", 0.5)
    torch.testing.assert_close(rewards, before[0] - 0.5 * (before[1] - before[2]))
    assert all(torch.equal(column, copy) for column, copy in zip(columns, before, strict=True))


def test_kl_of_no_rows_is_zero():
    empty = torch.zeros(0, 3)
    assert apply_kl_penalty(empty, empty, empty, empty, "k3", 1.0)[1] == 0.0


def test_fixed_controller_stays():
    controller = make_kl_controller({"type": "fixed", "kl_coef": 0.02, "horizon": 0, "target_kl": 0.0})
    assert isinstance(controller, FixedKLController)
    controller.update(5.0, 100)
    assert controller.value == 0.02
    assert make_kl_controller({}).value == 0.001


@pytest.mark.parametrize(
    ("current", "factor"),
    [
        (0.11, 1 + 0.1 * 64 / 1000),  # within a fifth of the target
        (0.09, 1 - 0.1 * 64 / 1000),
        (5.0, 1 + 0.2 * 64 / 1000),
        (float("inf"), 1 + 0.2 * 64 / 1000),
        (0.0, 1 - 0.2 * 64 / 1000),
        (-1.0, 1 - 0.2 * 64 / 1000),
        (0.1, 1.0),
        (float("nan"), 1.0),
    ],
)
def test_adaptive_controller_steers_towards_the_target(current: float, factor: float):
    controller = make_kl_controller({"type": "adaptive", "kl_coef": 0.5, "horizon": 1000, "target_kl": 0.1})
    assert isinstance(controller, AdaptiveKLController)
    controller.update(current, 64)
    assert controller.value == pytest.approx(0.5 * factor, rel=1e-12)


def test_a_resumed_controller_goes_on_where_it_was():
    settings = {"type": "adaptive", "kl_coef": 0.5, "horizon": 100, "target_kl": 0.1}
    controller, resumed = make_kl_controller(settings), make_kl_controller(settings)
    controller.update(1.0, 30)
    resumed.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    for one in (controller, resumed):
        one.update(0.05, 7)
    assert resumed.value == controller.value != 0.5

    fixed = make_kl_controller({"kl_coef": 0.3})
    fixed.load_state_dict(json.loads(json.dumps(make_kl_controller({"kl_coef": 0.1}).state_dict())))
    assert fixed.value == 0.3  # the configuration's


def test_state_of_another_controller_is_refused():
    fixed, adaptive = make_kl_controller({}), make_kl_controller({"type": "adaptive"})
    with pytest.raises(ConfigError, match=r"`algorithm.kl_ctrl.type` is 'fixed', but the checkpoint's .* 'adaptive'"):
        fixed.load_state_dict(adaptive.state_dict())
    with pytest.raises(ConfigError, match="is 'adaptive', but the checkpoint's"):
        adaptive.load_state_dict(fixed.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "adaptive", "horizon": 0}, "`algorithm.kl_ctrl.horizon` is 0; it must be greater than 0"),
        ({"type": "adaptive", "target_kl": -0.1}, "`algorithm.kl_ctrl.target_kl` is -0.1"),
        ({"type": "linear"}, "`algorithm.kl_ctrl.type` 'linear' is not one of fixed, adaptive"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        make_kl_controller(settings)
