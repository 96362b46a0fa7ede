"""`actor_rollout_ref.actor`: the training step of the policy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from .base import Bound, Float, NonNegative, Positive, PositiveInt, Section, Share, Unbounded, choice
from .model import Precision
from .optim import Optim

POLICY_LOSSES = (
    "vanilla",
    "gspo",
    "sapo",
    "gpg",
    "cispo",
    "dppo_tv",
    "dppo_kl",
    "dro",
    "clip_cov",
    "kl_cov",
    "geo_mean",
    "reinforce",
    "bypass_mode",
)
"""Policy losses that come with the package; each weighs tokens by their advantage."""
SELF_PLAY_LOSSES = ("online_dpo", "sppo")
"""Losses of whole answers and their rewards, without advantages: SPIN and SPPO."""
KlKind = Literal[
    "kl",
    "k1",
    "abs",
    "mse",
    "k2",
    "low_var_kl",
    "k3",
    "kl+",
    "k1+",
    "abs+",
    "mse+",
    "k2+",
    "low_var_kl+",
    "k3+",
]
"""Estimates of the KL divergence by token; with `+` the value is this one's and the gradient that of `k2`."""
LossAggMode = Literal[
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
    "seq-mean-token-mean",
    "per-rollout-mean",
]
"""How token losses become one number; a sequence is a rollout, however many rows it became."""


class PolicyLoss(Section):
    """The policy loss."""

    loss_mode: str = "vanilla"
    """Policy loss: `vanilla` (PPO's clipped surrogate) or another of `agentlightning.learner.losses`, a name registered
    with `register_policy_loss`, or `online_dpo` (SPIN) and `sppo` (SPPO), which need no advantages."""
    clip_cov_ratio: Share = 0.0002
    """`clip_cov`: share of the tokens to take out."""
    clip_cov_lb: Float = 1.0
    """`clip_cov`: smallest covariance of a token that may be taken out."""
    clip_cov_ub: Float = 5.0
    """`clip_cov`: largest covariance of a token that may be taken out."""
    kl_cov_ratio: Share = 0.0002
    """`kl_cov`: share of the tokens, those of highest covariance, that get a KL penalty."""
    ppo_kl_coef: NonNegative = 0.1
    """`kl_cov`: weight of that penalty."""
    dro_beta: Positive | None = None
    """`dro`: weight of the squared log-ratio; that loss needs it."""

    @field_validator("loss_mode")
    @classmethod
    def _known(cls, value: str) -> str:
        names = (*POLICY_LOSSES, *SELF_PLAY_LOSSES)
        return choice(value, names, "agentlightning.learner.losses", "policy_losses", "register_policy_loss")


class Actor(Section):
    """The training step."""

    ppo_mini_batch_size: PositiveInt = 256
    """Tasks per optimizer step (their `n` rollouts go together). Not set: at most `data.train_batch_size`."""
    ppo_epochs: PositiveInt = 1
    """Passes over the batch in one training step."""
    ppo_max_token_len_per_gpu: PositiveInt = 16384
    """Longest micro-batch in tokens. It bounds memory; the gradient does not depend on it."""
    shuffle: bool = False
    """Shuffle the batch before it is split into mini-batches."""
    data_loader_seed: int = 42
    """Seed of that shuffling; follows `agentlightning.seed` where it is not set."""
    clip_ratio: Bound = 0.2
    """PPO's clip range. Set alone it is both bounds below."""
    clip_ratio_low: Bound = 0.2
    """How far the probability ratio may go below 1."""
    clip_ratio_high: Bound = 0.2
    """How far the probability ratio may go above 1; larger than the lower bound is DAPO's clip-higher."""
    clip_ratio_c: Annotated[Unbounded, Field(gt=1)] = 3.0
    """Dual clip: bound of the ratio where the advantage is negative. In `dppo_*` the bound of every ratio."""
    tau_pos: Positive = 1.0
    """`sapo`: temperature of the gate where the advantage is positive."""
    tau_neg: Positive = 1.05
    """`sapo`: temperature of the gate where the advantage is not positive."""
    loss_agg_mode: LossAggMode = "token-mean"
    """How token losses become one number; in the `seq-` modes a sequence is a rollout."""
    loss_scale_factor: Positive | None = None
    """Divisor of `seq-mean-token-sum-norm`; null is the longest rollout's token count."""
    entropy_coeff: Float = 0.0
    """Weight of the entropy bonus."""
    use_kl_loss: bool = False
    """Add a KL term against the reference model to the loss."""
    kl_loss_coef: Float = 0.001
    """Weight of that term."""
    kl_loss_type: KlKind = "low_var_kl"
    """Its estimate by token; with `+` the gradient is that of `k2`."""
    sppo_eta: NonNegative = 1.0
    """`sppo`: what the log-ratio of an answer should be, per unit of its reward above the soft mean."""
    grad_clip: Annotated[Unbounded, Field(gt=0)] = 1.0
    """Largest norm of the gradient. verl's `optim.clip_grad` is read as this."""
    optim: Optim = Field(default_factory=Optim)
    """The optimizer and its schedule."""
    policy_loss: PolicyLoss = Field(default_factory=PolicyLoss)
    """The policy loss."""
    fsdp_config: Precision = Field(default_factory=Precision)
    """The policy's weights, which learner and engine share."""
