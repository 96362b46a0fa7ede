"""Every policy loss at points worked out by hand, value, gradient and metrics; and what holds for all of them."""

import math

import pytest
import torch

from agentlightning.learner.losses import compute_policy_loss, policy_losses, register_policy_loss
from agentlightning.types import ConfigError

CLIP = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.3, "clip_ratio_c": 3.0}
NAN = float("nan")


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def one(mode, *, ratio=1.0, advantage=1.0, old=-1.0, **config):
    """Loss, gradient and metrics of a single token with this ratio."""
    log_prob = tensor([[old + math.log(ratio)]]).requires_grad_()
    loss, metrics = compute_policy_loss(
        mode,
        old_log_prob=tensor([[old]]),
        log_prob=log_prob,
        advantages=tensor([[advantage]]),
        response_mask=torch.ones(1, 1),
        config={**CLIP, **config},
    )
    loss.backward()
    return loss.item(), log_prob.grad.item(), metrics


def close(value):
    return pytest.approx(value, abs=1e-12)


# -- one token at a time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.1, 2.0, -2.2, -2.2),  # inside: d(-A r)/d log pi = -A r
        (1.5, 2.0, -2.6, 0.0),  # beyond 1.3 with A > 0: clipped
        (0.5, 2.0, -1.0, -1.0),  # below 0.8 with A > 0: it may come back
        (0.5, -1.0, 0.8, 0.0),  # below 0.8 with A < 0: clipped
        (1.5, -1.0, 1.5, 1.5),  # above with A < 0: it may come back
        (5.0, -1.0, 3.0, 0.0),  # far above with A < 0: dual clip
        (1.2, 0.0, 0.0, 0.0),
    ],
)
def test_vanilla_stops_where_the_gain_is_used_up(ratio, advantage, loss, gradient):
    assert one("vanilla", ratio=ratio, advantage=advantage)[:2] == (close(loss), close(gradient))


@pytest.mark.parametrize("bounds", [(0.2, 0.2, 3.0), (0.0, 0.3, 1.1), (0.9, 5.0, 2.0), (1.5, 0.1, 1.01)])
def test_vanilla_is_the_formula_as_it_is_written(bounds):
    """`max(-A r, -A clip(r))`, and at most `-A c` where A < 0; metrics count where a bound is active."""
    low, high, dual = bounds
    generator = torch.Generator().manual_seed(2)
    log_prob, advantages = 1.5 * torch.randn(2, 40, 50, generator=generator, dtype=torch.float64)
    advantages[:3] = 0.0
    one, other = log_prob.clone().requires_grad_(), log_prob.clone().requires_grad_()
    ratio = one.exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    upper = torch.maximum(plain, clipped)
    wanted = torch.where(advantages < 0, torch.minimum(upper, -advantages * dual), upper).mean()
    wanted.backward()
    loss, metrics = compute_policy_loss(
        "vanilla",
        old_log_prob=torch.zeros_like(log_prob),
        log_prob=other,
        advantages=advantages,
        response_mask=torch.ones_like(log_prob),
        config={"clip_ratio_low": low, "clip_ratio_high": high, "clip_ratio_c": dual},
    )
    loss.backward()
    assert loss.item() == close(wanted.item())
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-12, atol=1e-16)
    assert metrics["actor/pg_clipfrac"] == close((clipped > plain).double().mean().item())
    lower = (upper > -advantages * dual) & (advantages < 0)
    assert metrics["actor/pg_clipfrac_lower"] == close(lower.double().mean().item())


def test_the_log_ratio_is_held_within_twenty():
    loss, gradient, metrics = one("vanilla", ratio=math.exp(25), advantage=-1.0, clip_ratio_c=1e30)
    assert loss == pytest.approx(math.exp(20))
    assert gradient == 0.0
    assert metrics["actor/ppo_kl"] == close(-20.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "tau", "loss"),
    [
        (1.0, 1.0, 2.0, -1.0),  # 4 / 2 * sigmoid(0)
        (1.5, 3.0, 2.0, -3.0 * 2.0 / (1 + math.exp(-1.0))),
        (0.5, -2.0, 4.0, 2.0 * 1.0 / (1 + math.exp(2.0))),
        (0.5, 0.0, 4.0, 0.0),
    ],
)
def test_sapo_gates_softly(ratio, advantage, tau, loss):
    value, gradient, metrics = one("sapo", ratio=ratio, advantage=advantage, tau_pos=2.0, tau_neg=4.0)
    gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
    assert value == pytest.approx(loss, rel=2e-8)  # a mean over tokens divides by their number + 1e-8
    assert gradient == pytest.approx(-advantage * 4 * gate * (1 - gate) * ratio, rel=2e-8)
    assert metrics["actor/pg_clipfrac"] == 0


def test_gpg_and_reinforce_are_the_plain_policy_gradient():
    assert one("gpg", ratio=2.0, advantage=3.0, old=-1.0) == (
        close(-3.0 * (math.log(2) - 1)),
        close(-3.0),
        {},
    )
    loss, gradient, metrics = one("reinforce", ratio=2.0, advantage=3.0, old=-1.0)
    assert (loss, gradient) == (close(-3.0 * (math.log(2) - 1)), close(-3.0))
    assert metrics == {"actor/ppo_kl": close(-math.log(2))}


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(1.1, 2.0, 1.1), (1.5, 2.0, 1.3), (0.5, 2.0, 0.8), (1.5, -1.0, 1.3), (0.5, -1.0, 0.8)],
)
def test_cispo_clips_the_weight_and_keeps_the_gradient(ratio, advantage, weight):
    loss, gradient, metrics = one("cispo", ratio=ratio, advantage=advantage)
    assert loss == close(-weight * advantage * (math.log(ratio) - 1))
    assert gradient == close(-weight * advantage)
    assert metrics["actor/pg_clipfrac"] == (weight != ratio)


@pytest.mark.parametrize(
    ("p", "q", "advantage", "kept"),
    [
        (0.7, 0.5, 1.0, True),  # p - q = 0.2 <= 0.3
        (0.9, 0.5, 1.0, False),
        (0.1, 0.5, 1.0, True),  # far away, but in the direction that A > 0 undoes
        (0.35, 0.5, -1.0, True),  # p - q = -0.15 >= -0.2
        (0.2, 0.5, -1.0, False),
        (0.9, 0.5, -1.0, True),
    ],
)
def test_dppo_tv_keeps_tokens_within_the_total_variation(p, q, advantage, kept):
    loss, gradient, metrics = one("dppo_tv", ratio=p / q, old=math.log(q), advantage=advantage)
    assert loss == close(-advantage * p / q * math.log(p) * kept)
    assert gradient == close(-advantage * p / q * kept)
    assert metrics["actor/pg_clipfrac"] == (not kept)


def test_dppo_cuts_the_ratio_at_the_dual_clip():
    loss, gradient, metrics = one("dppo_tv", ratio=5.0, old=math.log(0.05), advantage=1.0)  # p - q = 0.2
    assert (loss, gradient) == (close(-3.0 * math.log(0.25)), close(-3.0))
    assert metrics["actor/pg_clipfrac_lower"] == 1


@pytest.mark.parametrize(
    ("p", "q", "advantage", "kept"),
    [
        # D = q log(q/p) + (1-q) log((1-q)/(1-p)); bounds 0.3 above, 0.2 below
        (0.8, 0.5, 1.0, True),  # 0.5 log(.625) + 0.5 log(2.5) = 0.2231
        (0.9, 0.5, 1.0, False),  # 0.5 log(.5556) + 0.5 log(5) = 0.5108
        (0.1, 0.5, 1.0, True),  # 0.5108, but p <= q
        (0.25, 0.5, -1.0, True),  # 0.5 log(2) + 0.5 log(.6667) = 0.1438
        (0.2, 0.5, -1.0, False),  # 0.5 log(2.5) + 0.5 log(.625) = 0.2231
        (0.9, 0.5, -1.0, True),  # 0.5108, but p >= q
    ],
)
def test_dppo_kl_keeps_tokens_within_the_divergence(p, q, advantage, kept):
    loss, gradient, _ = one("dppo_kl", ratio=p / q, old=math.log(q), advantage=advantage)
    assert (loss, gradient) == (close(-advantage * p / q * math.log(p) * kept), close(-advantage * p / q * kept))


def test_dro_is_a_parabola():
    loss, gradient, metrics = one("dro", ratio=math.e**2, advantage=3.0, old=-4.0, policy_loss={"dro_beta": 0.5})
    assert loss == close(-(3.0 * -2.0 - 0.25 * 4.0))
    assert gradient == close(-(3.0 - 0.5 * 2.0))
    assert metrics == {"actor/ppo_kl": close(-2.0)}


# -- sequences -------------------------------------------------------------------------------------------------------


def test_gspo_moves_all_tokens_by_the_ratio_of_the_sequence():
    # Row 0: mean log-ratio (0.1 - 0.3 + 0.5) / 3 = 0.1. Row 1: mean 0.5, ratio 1.65 > 1.3, A > 0 clips.
    log_prob = tensor([[0.1, -0.3, 0.5], [0.5, 0.5, NAN]]).requires_grad_()
    advantages = tensor([[1.0, -2.0, 3.0], [1.0, -1.0, NAN]])
    loss, metrics = compute_policy_loss(
        "gspo",
        old_log_prob=tensor([[0.0, 0.0, 0.0], [0.0, 0.0, NAN]]),
        log_prob=log_prob,
        advantages=advantages,
        response_mask=tensor([[1, 1, 1], [1, 1, 0]]),
        config=CLIP,
    )
    loss.backward()
    s, t = math.exp(0.1), math.exp(0.5)
    assert loss.item() == close((-1 * s + 2 * s - 3 * s - 1.3 + t) / 5)
    assert log_prob.grad.tolist() == [
        [close(-s / 5), close(2 * s / 5), close(-3 * s / 5)],
        [close(0.0), close(t / 5), close(0.0)],
    ]
    assert metrics["actor/pg_clipfrac"] == close(1 / 5)
    assert metrics["actor/ppo_kl"] == close(-(0.3 + 1.0) / 5)


def test_gspo_bounds_the_log_ratio_at_ten():
    loss, gradient, _ = one("gspo", ratio=math.exp(15), advantage=-1.0)
    assert (loss, gradient) == (pytest.approx(math.exp(10)), close(0.0))


def test_geo_mean_is_the_plain_mean_over_all_rows():
    # Row 0, A = 1: g = min(d, clamp(d, -0.2, 0.3)) = [0.1, -0.5, 0.3]; mean -0.1 / 3. Row 1, A = -2, one token:
    # g = max(d, clamp(d)) = -0.2 (clipped). Row 2 is empty and counts as 0.
    log_prob = tensor([[0.1, -0.5, 0.6], [-0.5, NAN, NAN], [NAN] * 3]).requires_grad_()
    loss, metrics = compute_policy_loss(
        "geo_mean",
        old_log_prob=torch.zeros(3, 3, dtype=torch.float64),
        log_prob=log_prob,
        advantages=tensor([[1.0, 1.0, 1.0], [-2.0, NAN, NAN], [NAN] * 3]),
        response_mask=tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]),
        loss_agg_mode="token-sum",
        config={**CLIP, "global_batch_info": {"global_batch_size": 99}},
    )
    loss.backward()
    rho = math.exp(-0.1 / 3)
    assert loss.item() == pytest.approx((-rho + 2 * math.exp(-0.2)) / 3, abs=1e-7)
    assert log_prob.grad[0].tolist() == pytest.approx([-rho / 9, -rho / 9, 0.0], abs=1e-7)
    assert log_prob.grad[1:].abs().max() == 0.0
    # Outside the bounds: two of row 0 (A > 0), one of row 1 (A < 0), of four.
    assert (metrics["actor/pg_clipfrac"], metrics["actor/pg_clipfrac_lower"]) == (0.5, 0.25)


@pytest.mark.parametrize("advantage", [2.0, -2.0, 0.0])
def test_geo_mean_without_bounds_is_the_ratio(advantage):
    bounds = {"clip_ratio_low": math.inf, "clip_ratio_high": math.inf}
    loss, gradient, metrics = one("geo_mean", ratio=math.e**3, advantage=advantage, **bounds)
    assert (loss, gradient) == (pytest.approx(-advantage * math.e**3), pytest.approx(-advantage * math.e**3))
    assert metrics["actor/pg_clipfrac"] == metrics["actor/pg_clipfrac_lower"] == 0


@pytest.mark.parametrize("low", [0.0, 0.2])
def test_geo_mean_and_sapo_are_their_formulas_as_they_are_written(low):
    """Ratios on both sides of every bound, advantages of both signs and 0; value and gradient by autograd."""
    generator = torch.Generator().manual_seed(4)
    log_prob, advantages = torch.randn(2, 30, 40, generator=generator, dtype=torch.float64)
    advantages[:, :5] = 0.0
    log_prob[0, :4] = tensor([25.0, -25.0, 30.0, 20.0])
    for mode in ("geo_mean", "sapo"):
        one, other = log_prob.clone().requires_grad_(), log_prob.clone().requires_grad_()
        if mode == "geo_mean":
            sign = advantages.sign()
            taken = sign * torch.minimum(sign * one, sign * one.clamp(-low, 0.3))
            wanted = (-advantages.mean(-1) * taken.mean(-1).exp()).mean()
        else:
            tau = torch.where(advantages > 0, tensor(1.0), tensor(1.05))
            wanted = (-advantages * 4 / tau * torch.sigmoid(tau * (one.clamp(-20, 20).exp() - 1))).mean()
        wanted.backward()
        loss, _ = compute_policy_loss(
            mode,
            old_log_prob=torch.zeros_like(log_prob),
            log_prob=other,
            advantages=advantages,
            response_mask=torch.ones_like(log_prob),
            config={"clip_ratio_low": low, "clip_ratio_high": 0.3},
        )
        loss.backward()
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-8)
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-7, atol=1e-12)


def test_geo_mean_takes_the_geometric_mean_of_importance_weights():
    loss, _ = compute_policy_loss(
        "geo_mean",
        old_log_prob=torch.zeros(1, 2),
        log_prob=torch.zeros(1, 2),
        advantages=torch.ones(1, 2),
        response_mask=torch.ones(1, 2),
        rollout_is_weights=torch.tensor([[4.0, 1.0]]),
    )
    assert loss.item() == pytest.approx(-2.0, rel=1e-6)


def test_sapo_always_averages_sequences():
    arguments = {
        "old_log_prob": torch.zeros(2, 3, dtype=torch.float64),
        "log_prob": torch.zeros(2, 3, dtype=torch.float64),
        "advantages": tensor([[1.0, NAN, NAN], [4.0, 4.0, 4.0]]),
        "response_mask": tensor([[1, 0, 0], [1, 1, 1]]),
        "config": {"tau_pos": 1.0},
    }
    for mode in ("token-mean", "token-sum"):
        # At r = 1 the gate is 4 / tau / 2 = 2.
        assert compute_policy_loss("sapo", loss_agg_mode=mode, **arguments)[0].item() == pytest.approx(-5.0, abs=1e-7)


# -- the covariance losses -------------------------------------------------------------------------------------------

# Means: A 0, log pi -2. Covariances: 2 * 1 = 2, -2 * -1 = 2, 2 * -1 = -2, -2 * 1 = -2 and two zeros.
COV = {
    "log_prob": [[-1.0, -3.0, -3.0, NAN], [-1.0, -2.0, -2.0, NAN]],
    "advantages": [[2.0, -2.0, 2.0, NAN], [-2.0, 0.0, 0.0, NAN]],
    "mask": [[1, 1, 1, 0], [1, 1, 1, 0]],
}


def covariance_loss(mode, *, shift=0.0, **policy_loss):
    log_prob = tensor(COV["log_prob"]).requires_grad_()
    loss, metrics = compute_policy_loss(
        mode,
        old_log_prob=log_prob.detach() - shift,
        log_prob=log_prob,
        advantages=tensor(COV["advantages"]),
        response_mask=tensor(COV["mask"]),
        config={**CLIP, "policy_loss": policy_loss},
    )
    loss.backward()
    return loss.item(), log_prob.grad, metrics


def test_clip_cov_takes_out_tokens_of_high_covariance():
    """Both candidates are taken (2 of 6 tokens), so that chance has no say."""
    loss, gradient, metrics = covariance_loss("clip_cov", clip_cov_ratio=0.34)
    assert loss == close((0 + 0 - 2 + 2) / 6)
    assert gradient.tolist() == [[0, 0, close(-2 / 6), 0], [close(2 / 6), 0, 0, 0]]
    assert metrics["actor/pg_clipfrac"] == close(2 / 6)


def test_clip_cov_takes_at_least_one_and_none_outside_its_bounds():
    _, gradient, metrics = covariance_loss("clip_cov", clip_cov_ratio=1e-9)
    assert metrics["actor/pg_clipfrac"] == close(1 / 6)
    assert sorted(gradient[0, :2].abs().tolist()) == [0.0, close(2 / 6)]
    assert covariance_loss("clip_cov", clip_cov_ratio=0.5, clip_cov_lb=2.5)[2]["actor/pg_clipfrac"] == 0
    assert covariance_loss("clip_cov", clip_cov_ratio=0.5, clip_cov_ub=2.0)[2]["actor/pg_clipfrac"] == 0


def test_clip_cov_leaves_what_ppo_clips():
    """Ratio 2 everywhere: the candidate with A > 0 is clipped already, the one with A < 0 is taken."""
    loss, gradient, metrics = covariance_loss("clip_cov", shift=math.log(2), clip_cov_ratio=0.5)
    assert metrics["actor/pg_clipfrac"] == close(1 / 6)
    assert loss == close((-2 * 1.3 + 0 - 2 * 1.3 + 2 * 2) / 6)
    assert gradient.tolist() == [[0, 0, 0, 0], [close(4 / 6), 0, 0, 0]]


def test_clip_cov_draws_from_the_global_generator_or_its_own_seed():
    def taken(**config):
        log_prob = tensor(COV["log_prob"]).requires_grad_()
        loss, _ = compute_policy_loss(
            "clip_cov",
            old_log_prob=log_prob.detach(),
            log_prob=log_prob,
            advantages=tensor(COV["advantages"]),
            response_mask=tensor(COV["mask"]),
            config=config,
        )
        loss.backward()
        return [bool(log_prob.grad[0, i] == 0) for i in range(2)]

    state = torch.get_rng_state()
    seeded = [taken(seed=seed) for seed in range(20)]
    assert torch.equal(state, torch.get_rng_state())
    assert seeded == [taken(seed=seed) for seed in range(20)]
    assert [True, False] in seeded
    assert [False, True] in seeded
    for seed in range(10):
        torch.manual_seed(seed)
        first = torch.randperm(2)[0]
        torch.manual_seed(seed)
        assert taken()[first]


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_kl_cov_penalises_the_tokens_of_highest_covariance(factor):
    d, coefficient = math.log(factor), 0.7
    loss, gradient, metrics = covariance_loss("kl_cov", shift=d, kl_cov_ratio=0.34, ppo_kl_coef=coefficient)
    # -A r sums to 0 over the six tokens; two of them carry the penalty.
    assert loss == close(2 * coefficient * abs(d) / 6)
    pull = coefficient * math.copysign(1, d)
    expected = [[-2 * factor + pull, 2 * factor + pull, -2 * factor, 0], [2 * factor, 0, 0, 0]]
    assert gradient.tolist() == [[close(value / 6) for value in row] for row in expected]
    assert metrics["actor/ppo_kl"] == close(abs(d))


@pytest.mark.parametrize("share", [1e-9, 0.0])
def test_the_smallest_share_takes_one_token(share):
    d = math.log(2)
    assert covariance_loss("kl_cov", shift=d, kl_cov_ratio=share, ppo_kl_coef=1.0)[0] == close(d / 6)
    assert covariance_loss("clip_cov", clip_cov_ratio=share)[2]["actor/pg_clipfrac"] == close(1 / 6)


@pytest.mark.parametrize("mode", ["kl_cov", "clip_cov"])
@pytest.mark.parametrize("share", [-0.1, 1.5, NAN])
def test_what_is_no_share_is_refused(mode, share):
    with pytest.raises(ConfigError, match=f"`policy_loss.{mode}_ratio` is {share}"):
        covariance_loss(mode, **{f"{mode}_ratio": share})


# -- settings, masks, batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [None, 0.0, -1.0])
def test_dro_needs_a_beta(beta):
    with pytest.raises(ConfigError, match="dro_beta"):
        one("dro", policy_loss={"dro_beta": beta})


def test_none_means_the_default():
    assert one("vanilla", ratio=1.5, clip_ratio=0.1, clip_ratio_high=None)[0] == close(-1.1)
    assert one("vanilla", ratio=9.0, advantage=-1.0, clip_ratio_c=None)[0] == close(3.0)
    assert compute_policy_loss(
        "vanilla",
        old_log_prob=torch.zeros(1, 1),
        log_prob=torch.ones(1, 1),
        advantages=torch.ones(1, 1),
        response_mask=torch.ones(1, 1),
    )[0].item() == pytest.approx(-1.2)


def test_unknown_loss_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'ppo' is not one of vanilla.*geo_mean"):
        one("ppo")


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"`advantages` is \(2,\), `log_prob` \(2, 3\)"):
        compute_policy_loss(
            "vanilla",
            old_log_prob=torch.zeros(2, 3),
            log_prob=torch.zeros(2, 3),
            advantages=torch.zeros(2),
            response_mask=torch.ones(2, 3),
        )


BUILT_IN = [name for name in policy_losses() if name != "bypass_mode" and not name.startswith("test_")]
SETTINGS = {**CLIP, "policy_loss": {"dro_beta": 0.3, "clip_cov_ratio": 0.1, "clip_cov_lb": 0.1}, "seed": 3}


def batch(seed=0, rows=6, width=9):
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(rows, width, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, width, generator=generator) < 0.6
    mask[2] = False
    return {
        "old_log_prob": old,
        "log_prob": old + 0.3 * torch.randn(rows, width, generator=generator, dtype=torch.float64),
        "advantages": torch.randn(rows, width, generator=generator, dtype=torch.float64),
        "response_mask": mask,
    }


def evaluate(mode, data, **more):
    log_prob = data["log_prob"].clone().requires_grad_()
    loss, metrics = compute_policy_loss(mode, **{**data, "log_prob": log_prob}, config=SETTINGS, **more)
    loss.backward()
    return loss.item(), log_prob.grad, metrics


# The others have a gradient that their value does not have; by hand above.
@pytest.mark.parametrize("mode", sorted(set(BUILT_IN) - {"cispo", "dppo_tv", "dppo_kl", "gspo"}))
def test_gradients_are_those_of_finite_differences(mode):
    data = batch()

    def loss(log_prob):
        return compute_policy_loss(mode, **{**data, "log_prob": log_prob}, config=SETTINGS)[0]

    assert torch.autograd.gradcheck(loss, (data["log_prob"].requires_grad_(),))


@pytest.mark.parametrize("mode", BUILT_IN)
@pytest.mark.parametrize("rubbish", [NAN, math.inf, -math.inf, 1e30])
def test_what_is_masked_reaches_neither_loss_nor_gradient(mode, rubbish):
    data = batch()
    spoilt = {
        name: torch.where(data["response_mask"], values, rubbish) if name != "response_mask" else values
        for name, values in data.items()
    }
    weights = torch.rand(6, 9, dtype=torch.float64)
    loss, gradient, metrics = evaluate(mode, data, rollout_is_weights=weights)
    spoilt_loss, spoilt_gradient, spoilt_metrics = evaluate(
        mode, spoilt, rollout_is_weights=torch.where(data["response_mask"], weights, rubbish)
    )
    assert spoilt_loss == loss
    assert torch.equal(spoilt_gradient, gradient)
    assert spoilt_metrics == metrics
    assert gradient[~data["response_mask"]].abs().max() == 0.0


@pytest.mark.parametrize("mode", BUILT_IN)
def test_the_mask_may_be_numbers_and_tensors_need_not_be_contiguous(mode):
    data = batch()
    loss, gradient, metrics = evaluate(mode, data)
    for dtype in (torch.int64, torch.float32):
        assert evaluate(mode, {**data, "response_mask": data["response_mask"].to(dtype)})[0] == loss
    turned = {name: values.T.contiguous().T for name, values in data.items()}
    same_loss, same_gradient, same_metrics = evaluate(mode, turned)
    assert same_loss == pytest.approx(loss, rel=1e-13)
    assert same_metrics == pytest.approx(metrics, rel=1e-13)
    torch.testing.assert_close(same_gradient, gradient, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("mode", [mode for mode in BUILT_IN if mode not in ("clip_cov", "kl_cov", "geo_mean")])
@pytest.mark.parametrize("agg", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean"])
def test_micro_batches_with_global_totals_add_up(mode, agg):
    data = batch()
    totals = {"batch_num_tokens": int(data["response_mask"].sum()), "global_batch_size": 5}
    whole, gradient, _ = evaluate(mode, data, loss_agg_mode=agg)
    parts, slopes = 0.0, []
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        log_prob = data["log_prob"][rows].clone().requires_grad_()
        part = {name: values[rows] for name, values in data.items()}
        loss, _ = compute_policy_loss(
            mode,
            **{**part, "log_prob": log_prob},
            loss_agg_mode=agg,
            config={**SETTINGS, "global_batch_info": totals},
        )
        loss.backward()
        parts += loss.item()
        slopes.append(log_prob.grad)
    assert parts == pytest.approx(whole, abs=1e-12)
    torch.testing.assert_close(torch.cat(slopes), gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", BUILT_IN)
def test_rows_of_any_number_are_evaluated_part_by_part_alike(mode, monkeypatch):
    """One row at a time, or all at once: the parts are only a way to save memory."""
    from agentlightning.learner.losses import padded

    whole = evaluate(mode, batch(rows=13))
    monkeypatch.setattr(padded, "CHUNK_ELEMENTS", {"cpu": 18})
    loss, gradient, metrics = evaluate(mode, batch(rows=13))
    assert loss == pytest.approx(whole[0], abs=1e-13)
    torch.testing.assert_close(gradient, whole[1], rtol=1e-13, atol=1e-16)
    assert metrics == pytest.approx(whole[2], abs=1e-13)


@pytest.mark.parametrize("mode", [mode for mode in BUILT_IN if mode != "geo_mean"])
def test_importance_weights_multiply_the_losses(mode):
    """A weight of 3 on every token triples loss and gradient; the clip does not see it."""
    data = batch()
    loss, gradient, metrics = evaluate(mode, data)
    tripled, tripled_gradient, same = evaluate(mode, data, rollout_is_weights=torch.full((6, 9), 3.0).double())
    assert tripled == pytest.approx(3 * loss, rel=1e-12)
    torch.testing.assert_close(tripled_gradient, 3 * gradient)
    assert same == metrics


def test_float32_and_a_scaled_loss_have_the_scaled_gradient():
    data = {n: v.float() if n != "response_mask" else v for n, v in batch().items()}
    _, gradient, _ = evaluate("vanilla", data)
    log_prob = data["log_prob"].clone().requires_grad_()
    loss, _ = compute_policy_loss("vanilla", **{**data, "log_prob": log_prob}, config=SETTINGS)
    assert loss.dtype == torch.float32
    (2.5 * loss + 0.0 * log_prob.sum()).backward()
    torch.testing.assert_close(log_prob.grad, 2.5 * gradient)


@pytest.mark.parametrize("mode", BUILT_IN)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-6), (torch.bfloat16, 0.1)])
def test_log_probs_may_be_of_another_precision_than_the_rest(mode, dtype, rtol):
    data = batch()
    expected, gradient, _ = evaluate(mode, data, loss_agg_mode="seq-mean-token-mean")
    mixed = {n: v.float() if n != "response_mask" else v for n, v in data.items()}
    loss, found, _ = evaluate(
        mode, {**mixed, "log_prob": data["log_prob"].to(dtype)}, loss_agg_mode="seq-mean-token-mean"
    )
    assert found.dtype == dtype
    assert loss == pytest.approx(expected, abs=rtol)
    torch.testing.assert_close(found.double(), gradient, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("dual", [1.0, 0.5])
def test_dual_clip_must_be_above_one(dual):
    with pytest.raises(ConfigError, match=f"`clip_ratio_c` is {dual}"):
        one("vanilla", clip_ratio_c=dual)


def test_nothing_trained_gives_nan_as_the_aggregation_does_but_a_sum_of_zero():
    data = {**batch(), "response_mask": torch.zeros(6, 9)}
    assert math.isnan(compute_policy_loss("vanilla", **data)[0].item())
    assert compute_policy_loss("vanilla", **data, loss_agg_mode="token-sum")[0].item() == 0.0
    for mode in BUILT_IN:
        compute_policy_loss(mode, **data, config=SETTINGS)  # none fails


def test_a_registered_loss_gets_verls_arguments():
    seen = {}

    @register_policy_loss("test_square")
    def square(*, old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights):
        seen.update(config=config, agg=loss_agg_mode, weights=rollout_is_weights)
        return ((log_prob - old_log_prob).square() * response_mask).sum(), {"actor/own": 1.5}

    loss, metrics = compute_policy_loss(
        "test_square",
        old_log_prob=torch.zeros(1, 2),
        log_prob=torch.tensor([[2.0, 3.0]]),
        advantages=torch.ones(1, 2),
        response_mask=torch.tensor([[1.0, 0.0]]),
        loss_agg_mode="token-sum",
        config={"clip_ratio": 0.1, "policy_loss": {"mine": 7}},
    )
    assert (loss.item(), metrics) == (4.0, {"actor/own": 1.5})
    config = seen["config"]
    assert (config.clip_ratio_low, config["clip_ratio_high"], config.policy_loss.mine) == (0.1, 0.1, 7)
    assert config.get("nothing", 5) == 5
    assert (config.policy_loss.ppo_kl_coef, seen["agg"], seen["weights"]) == (0.1, "token-sum", None)
    with pytest.raises(AttributeError, match="`nothing`"):
        _ = config.nothing


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="exists already"):
        register_policy_loss("gspo")(lambda **_: (torch.ones(()), {}))
