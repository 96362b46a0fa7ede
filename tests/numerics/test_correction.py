"""Rollout correction: weights, rejection and diagnostics at numbers worked out by hand."""

import math

import pytest
import torch

from agentlightning.learner.correction import RS_OPTIONS, compute_rollout_correction
from agentlightning.learner.losses import compute_policy_loss
from agentlightning.types import ConfigError

NAN = float("nan")
LOG2 = math.log(2)

# Ratios train / rollout. Row 0: 2, 1/2, 4; row 1: 1/4; row 2: nothing.
RATIOS = [[2.0, 0.5, 4.0], [0.25, NAN, NAN], [NAN] * 3]
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])


def correct(ratios=RATIOS, mask=MASK, **settings):
    ratios = torch.tensor(ratios, dtype=torch.float64)
    rollout = torch.full_like(ratios, -1.0)
    return compute_rollout_correction(
        old_log_prob=rollout + ratios.log(), rollout_log_prob=rollout, response_mask=mask, **settings
    )


def rows(tensor):
    return [[pytest.approx(value, abs=1e-12) for value in row] for row in tensor.tolist()]


def test_without_settings_there_are_only_diagnostics():
    weights, mask, metrics = correct()
    assert weights is None
    assert mask is MASK
    assert all(name.startswith("rollout_corr/") and isinstance(value, float) for name, value in metrics.items())
    assert not any("rollout_is" in name or "rollout_rs" in name for name in metrics)


def test_diagnostics_by_hand():
    metrics = {name.removeprefix("rollout_corr/"): value for name, value in correct()[2].items()}
    # Log-probs of the sampler are -1; of the learner -1 + log ratio. Mean log-ratios of the rows: 2/3 log 2, -2 log 2.
    logs = (2 / 3 * LOG2, -2 * LOG2)
    expected = {
        "rollout_log_ppl": 1.0,
        "rollout_ppl": math.e,
        "training_log_ppl": 1 - sum(logs) / 2,
        "training_ppl": (math.exp(1 - logs[0]) + math.exp(1 - logs[1])) / 2,
        "kl": -(1 - 1 + 2 - 2) * LOG2 / 4,
        "k3_kl": (2 + 0.5 + 4 + 0.25) / 4 - 1,
        "log_ppl_diff": -sum(logs) / 2,
        "log_ppl_abs_diff": (logs[0] - logs[1]) / 2,
        "log_ppl_diff_max": 2 * LOG2,
        "log_ppl_diff_min": -2 / 3 * LOG2,
        "ppl_ratio": (2 ** (-2 / 3) + 4) / 2,
        "chi2_token": (4 + 0.25 + 16 + 0.0625) / 4 - 1,
        "chi2_seq": (16 + 0.0625) / 2 - 1,
    }
    assert metrics == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("threshold", [2.0, 2, "2.0", " 2 "])
def test_truncation_by_token(threshold):
    weights, mask, _ = correct(rollout_is="token", rollout_is_threshold=threshold)
    assert weights.tolist() == rows(torch.tensor([[2.0, 0.5, 2.0], [0.25, 0, 0], [0, 0, 0]]))
    assert mask is MASK


def test_truncation_by_sequence():
    weights, _, _ = correct(rollout_is="sequence", rollout_is_threshold=3.0)
    assert weights.tolist() == rows(torch.tensor([[3.0, 3.0, 3.0], [0.25, 0, 0], [0, 0, 0]]))  # product 4


def test_a_band_zeroes_what_is_outside():
    weights, _, metrics = correct(rollout_is="token", rollout_is_threshold="0.4_2.5")
    assert weights.tolist() == rows(torch.tensor([[2.0, 0.5, 0], [0, 0, 0], [0, 0, 0]]))
    assert metrics["rollout_corr/rollout_is_oob_ratio"] == 0.5
    weights, _, _ = correct(rollout_is="sequence", rollout_is_threshold="0.5_4.5")
    assert weights.tolist() == rows(torch.tensor([[4.0, 4.0, 4.0], [0, 0, 0], [0, 0, 0]]))


def test_weights_are_divided_by_their_mean():
    weights, _, metrics = correct(rollout_is="token", rollout_is_threshold=2.0, rollout_is_batch_normalize=True)
    mean = (2 + 0.5 + 2 + 0.25) / 4
    assert weights[0].tolist() == pytest.approx([2 / mean, 0.5 / mean, 2 / mean])
    assert metrics["rollout_corr/rollout_is_batch_norm_factor"] == pytest.approx(mean)
    weights, _, _ = correct(rollout_is="sequence", rollout_is_threshold=3.0, rollout_is_batch_normalize=True)
    assert weights[:, 0].tolist() == pytest.approx([3 / 1.625, 0.25 / 1.625, 0.0])  # rows count alike


def test_weights_of_nothing_are_not_divided_by_zero():
    weights, _, metrics = correct(rollout_is="token", rollout_is_threshold="7_8", rollout_is_batch_normalize=True)
    assert weights.abs().max() == 0
    assert metrics["rollout_corr/rollout_is_batch_norm_factor"] == 1.0
    assert math.isfinite(metrics["rollout_corr/rollout_is_eff_sample_size"])


def test_log_ratios_are_held_within_twenty():
    weights, _, _ = correct([[math.exp(30)]], torch.ones(1, 1), rollout_is="token", rollout_is_threshold=1e30)
    assert weights.item() == pytest.approx(math.exp(20))
    weights, _, _ = correct([[1e5, 1e5]], torch.ones(1, 2), rollout_is="sequence", rollout_is_threshold=1e30)
    assert weights[0].tolist() == pytest.approx([math.exp(20)] * 2)


def test_weight_metrics_by_hand():
    metrics = correct(rollout_is="token", rollout_is_threshold=2.5)[2]
    found = {name.removeprefix("rollout_corr/rollout_is_"): value for name, value in metrics.items() if "_is_" in name}
    cut, means = [2, 0.5, 2.5, 0.25], [5 / 3, 0.25]  # the weights; the raw means are 6.5 / 3 and 0.25
    mean, squares = sum(cut) / 4, sum(c * c for c in cut) / 4
    assert found == pytest.approx(
        {
            "mean": mean,
            "std": math.sqrt(squares - mean**2),
            "max": 2.5,
            "min": 0.25,
            "eff_sample_size": mean**2 / squares,
            "ratio_fraction_high": 0.25,  # the 4, before it was cut
            "ratio_fraction_low": 0.25,  # below 1 / 2.5
            "seq_mean": sum(means) / 2,
            "seq_std": (means[0] - means[1]) / math.sqrt(2),  # of a sample of two
            "seq_max": means[0],
            "seq_min": means[1],
            "seq_max_deviation": 0.75,
            "seq_fraction_high": 0.0,
            "seq_fraction_low": 0.5,
        },
        rel=1e-7,
    )


def test_weight_metrics_of_sequences_by_hand():
    """Products 4, cut to 3 at three tokens, and 1/4 at one."""
    metrics = correct(rollout_is="sequence", rollout_is_threshold=3.0)[2]
    found = {name.removeprefix("rollout_corr/rollout_is_"): value for name, value in metrics.items() if "_is_" in name}
    assert found["mean"] == pytest.approx((3 * 3 + 0.25) / 4)
    assert (found["max"], found["min"]) == pytest.approx((4.0, 0.25))  # verl's are those before truncation here
    assert (found["ratio_fraction_high"], found["ratio_fraction_low"]) == (0.5, 0.5)  # of sequences
    assert (found["seq_max"], found["seq_min"]) == pytest.approx((3.0, 0.25))
    assert found["seq_fraction_high"] == 0.5


def test_weights_that_are_all_zero_are_worth_no_sample():
    metrics = correct(rollout_is="token", rollout_is_threshold="7_8")[2]
    assert metrics["rollout_corr/rollout_is_eff_sample_size"] == 0.0


# k1 = -log rho: row 0: -l, l, -2l; row 1: 2l (l = log 2). k2: l^2/2, l^2/2, 2 l^2; 2 l^2.
# k3 = rho - 1 - log rho: 1 - l = 0.307, -0.5 + l = 0.193, 3 - 2l = 1.614; -0.75 + 2l = 0.636.
@pytest.mark.parametrize(
    ("option", "threshold", "kept"),
    [
        ("token_k1", 2.5, [[1, 1, 0], [0, 0, 0]]),  # |log rho| <= log 2.5
        ("token_k1", "0.4_4.1", [[1, 1, 0], [1, 0, 0]]),  # log 0.4 <= k1 <= log 4.1
        ("token_k2", 0.5, [[1, 1, 0], [0, 0, 0]]),
        ("token_k3", 0.7, [[1, 1, 0], [1, 0, 0]]),
        ("seq_sum_k1", 3.9, [[0, 0, 0], [0, 0, 0]]),  # sums -2l and 2l
        ("seq_sum_k1", 4.1, [[1, 1, 1], [1, 0, 0]]),
        ("seq_mean_k1", 2.0, [[1, 1, 1], [0, 0, 0]]),  # means -2/3 l and 2l
        ("seq_sum_k2", 1.0, [[0, 0, 0], [1, 0, 0]]),  # 3 l^2 = 1.44 and 0.96
        ("seq_mean_k2", 0.5, [[1, 1, 1], [0, 0, 0]]),  # 0.48 and 0.96
        ("seq_sum_k3", 1.0, [[0, 0, 0], [1, 0, 0]]),  # 2.11 and 0.64
        ("seq_mean_k3", 0.7, [[0, 0, 0], [1, 0, 0]]),  # 0.705 and 0.636
        ("seq_mean_k3", "0.71", [[1, 1, 1], [1, 0, 0]]),
        ("seq_max_k2", 0.9, [[0, 0, 0], [0, 0, 0]]),  # both 0.96
        ("seq_max_k3", 0.7, [[0, 0, 0], [1, 0, 0]]),  # 1.61 and 0.64
    ],
)
def test_rejection_by_hand(option, threshold, kept):
    weights, mask, metrics = correct(rollout_rs=option, rollout_rs_threshold=threshold)
    assert weights is None
    assert mask.tolist() == [*kept, [0, 0, 0]]
    assert mask.dtype == MASK.dtype
    remaining = sum(map(sum, kept))
    assert metrics["rollout_corr/rollout_rs_masked_fraction"] == pytest.approx(1 - remaining / 4)
    whole = (sum(kept[0]) == 3) + (sum(kept[1]) == 1)
    assert metrics["rollout_corr/rollout_rs_seq_masked_fraction"] == pytest.approx(1 - whole / 2)


def test_every_option_has_its_metrics():
    for option in RS_OPTIONS:
        metrics = correct(rollout_rs=option, rollout_rs_threshold=2.0)[2]
        assert {"mean", "std", "max", "min", "fraction_high"} <= {
            name.removeprefix(f"rollout_corr/rollout_rs_{option}_") for name in metrics
        }
    found = correct(rollout_rs="token_k1", rollout_rs_threshold=2.5)[2]
    named = {name.removeprefix("rollout_corr/rollout_rs_token_k1_"): value for name, value in found.items()}
    assert named["mean"] == pytest.approx(0.0, abs=1e-12)
    assert named["max"] == pytest.approx(2 * LOG2)
    assert (named["fraction_high"], named["fraction_low"]) == (0.25, 0.25)
    assert named["seq_max"] == pytest.approx(2 * LOG2)
    assert named["seq_min"] == pytest.approx(-2 / 3 * LOG2)
    assert named["seq_fraction_high"] == 0.5
    assert named["seq_max_deviation"] == pytest.approx(2 * LOG2)
    assert named["seq_std"] == pytest.approx(8 / 3 * LOG2 / math.sqrt(2))
    bound = math.log(2.5)  # k1 is -l, l, -2l, 2l; held within the bounds the last two are -+ bound
    assert named["std"] == pytest.approx(math.sqrt((LOG2**2 + bound**2) / 2))
    assert (named["masked_fraction"], named["seq_masked_fraction"]) == (0.5, 1.0)


def test_metrics_of_a_statistic_of_sequences_by_hand():
    """Sums of k2 are 3 l^2 over three tokens and 2 l^2 over one; only the second passes."""
    found = correct(rollout_rs="seq_sum_k2", rollout_rs_threshold=1.0)[2]
    named = {name.removeprefix("rollout_corr/rollout_rs_seq_sum_k2_"): value for name, value in found.items()}
    first, second = 3 * LOG2**2, 2 * LOG2**2
    assert named["mean"] == pytest.approx((3 * first + second) / 4)  # over tokens
    assert named["seq_mean"] == pytest.approx((first + second) / 2)
    assert named["std"] == pytest.approx(math.sqrt((3 + second**2) / 4 - ((3 + second) / 4) ** 2))  # `first` cut to 1
    assert (named["max"], named["min"]) == pytest.approx((first, second))
    assert (named["fraction_high"], named["fraction_low"]) == (0.5, 0.0)
    assert (named["masked_fraction"], named["seq_masked_fraction"]) == (0.75, 0.5)


def test_several_options_must_all_pass():
    _, mask, _ = correct(rollout_rs="token_k1, seq_mean_k3", rollout_rs_threshold="2.5,0.71")
    assert mask.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    _, mask, _ = correct(rollout_rs="token_k3,seq_max_k3", rollout_rs_threshold=0.7)
    assert mask.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_weights_and_rejection_go_together():
    weights, mask, _ = correct(mask=MASK.bool(), rollout_is="token", rollout_rs="token_k1", rollout_rs_threshold=2.5)
    assert weights[1, 0].item() == pytest.approx(0.25)
    assert mask.dtype == torch.bool
    assert mask.sum() == 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rollout_is": "row"}, ConfigError, "'row' is not one of token, sequence"),
        ({"rollout_is": "token", "rollout_is_threshold": 0.0}, ConfigError, "must be a number above 0"),
        ({"rollout_is": "token", "rollout_is_threshold": "2_0.5"}, ConfigError, "lower bound comes first"),
        ({"rollout_is": "token", "rollout_is_threshold": "-1_2"}, ConfigError, "above 0"),
        ({"rollout_is": "token", "rollout_is_threshold": "1_2_3"}, ConfigError, "or two as"),
        ({"rollout_is": "token", "rollout_is_threshold": ""}, ConfigError, "above 0"),
        ({"rollout_is": "token", "rollout_is_threshold": "inf"}, ConfigError, "above 0"),
        ({"rollout_is": "token", "rollout_is_threshold": True}, TypeError, "`rollout_is_threshold` is True"),
        ({"rollout_is": "token", "rollout_is_threshold": None}, TypeError, "`rollout_is_threshold` is None"),
        ({"rollout_rs": "seq_max_k1", "rollout_rs_threshold": 2.0}, ConfigError, "'seq_max_k1' is not one of token_k1"),
        ({"rollout_rs": "token_k1,", "rollout_rs_threshold": 2.0}, ConfigError, "'' is not one of"),
        ({"rollout_rs": "token_k1"}, ConfigError, "there is no `rollout_rs_threshold`"),
        ({"rollout_rs": "token_k1,token_k2", "rollout_rs_threshold": "1,2,3"}, ConfigError, "3 thresholds for 2"),
        ({"rollout_rs": "token_k2", "rollout_rs_threshold": "0.5_2"}, ConfigError, "is a band; `token_k2` takes one"),
        ({"rollout_rs": "token_k2", "rollout_rs_threshold": False}, TypeError, "`rollout_rs_threshold` is False"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        correct(**settings)


def test_nothing_trained_is_nothing_to_correct():
    weights, mask, metrics = correct(
        mask=torch.zeros(3, 3), rollout_is="sequence", rollout_rs="seq_mean_k1,token_k3", rollout_rs_threshold=2.0
    )
    assert (weights.abs().sum(), mask.sum()) == (0, 0)
    assert all(math.isfinite(value) for value in metrics.values())


# -- bypass mode -----------------------------------------------------------------------------------------------------


def bypass(totals=None, **settings):
    """Ratios 2 and 1/2 with advantages 1 and -1, sampled at log-probs -1."""
    log_prob = torch.tensor([[LOG2 - 1, -LOG2 - 1]], dtype=torch.float64).requires_grad_()
    loss, metrics = compute_policy_loss(
        "bypass_mode",
        old_log_prob=torch.full((1, 2), -1.0, dtype=torch.float64),
        log_prob=log_prob,
        advantages=torch.tensor([[1.0, -1.0]], dtype=torch.float64),
        response_mask=torch.ones(1, 2),
        config={"rollout_correction": settings, "global_batch_info": totals or {}},
    )
    loss.backward()
    return loss.item(), log_prob.grad[0].tolist(), metrics


def test_bypass_is_ppo_against_the_sampler_without_weights():
    loss, gradient, metrics = bypass(rollout_is="token", bypass_mode=True)
    assert loss == pytest.approx((-1.2 + 0.8) / 2)
    assert gradient == [0.0, 0.0]
    assert metrics["actor/pg_clipfrac"] == 1.0
    assert metrics["rollout_corr/rollout_is_max"] == pytest.approx(2.0)


def test_bypass_with_reinforce_weighs_the_gradient():
    loss, gradient, metrics = bypass(rollout_is="token", rollout_is_threshold=1.5, loss_type="reinforce")
    assert loss == pytest.approx((-1.5 * (LOG2 - 1) + 0.5 * (-LOG2 - 1)) / 2)
    assert gradient == pytest.approx([-0.75, 0.25])
    assert metrics["actor/ppo_kl"] == pytest.approx(0.0)


def test_bypass_rejects_tokens():
    settings = {"rollout_rs": "token_k3", "rollout_rs_threshold": 0.2, "loss_type": "reinforce"}
    assert bypass(**settings)[1] == pytest.approx([0.0, 1.0])  # of one token left
    assert bypass({"batch_num_tokens": 2}, **settings)[1] == pytest.approx([0.0, 0.5])  # of the mini-batch's two


def test_bypass_reads_its_settings_from_policy_loss_too():
    arguments = {
        "old_log_prob": torch.zeros(1, 1),
        "log_prob": torch.full((1, 1), -2.0),
        "advantages": torch.ones(1, 1),
        "response_mask": torch.ones(1, 1),
    }
    config = {"policy_loss": {"rollout_correction": {"loss_type": "reinforce"}}}
    assert compute_policy_loss("bypass_mode", **arguments, config=config)[0].item() == pytest.approx(2.0)
    with pytest.raises(ConfigError, match="'ppo' is not one of ppo_clip, reinforce"):
        compute_policy_loss("bypass_mode", **arguments, config={"rollout_correction": {"loss_type": "ppo"}})
