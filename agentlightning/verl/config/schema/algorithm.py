"""`algorithm`: how rewards become advantages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from .actor import KlKind
from .base import Count, Float, NonNegative, Positive, PositiveInt, Section, Share, choice
from .correction import RolloutCorrection

ESTIMATORS = (
    "gae",
    "grpo",
    "grpo_vectorized",
    "grpo_passk",
    "gdpo",
    "rloo",
    "rloo_vectorized",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "remax",
    "opo",
    "gpg",
    "optimal_token_baseline",
    "tir_optimal_token_baseline",
)
"""Advantage estimators that come with the package."""


class KlCtrl(Section):
    """The weight of the KL penalty in the reward."""

    type: Literal["fixed", "adaptive"] = "fixed"
    """`fixed` keeps `kl_coef`; `adaptive` moves it so that the KL nears `target_kl`."""
    kl_coef: NonNegative = 0.001
    """The weight, or where it begins."""
    horizon: PositiveInt = 10000
    """Adaptive: rollouts in which the weight may change by about a fifth."""
    target_kl: Positive = 0.1
    """Adaptive: the KL by token to be near."""


class FilterGroups(Section):
    """Dynamic sampling of DAPO: groups whose rollouts all earned the same are replaced by those of other tasks."""

    enable: bool = False
    """Replace such groups until the batch is full."""
    metric: Annotated[str, BeforeValidator(lambda value: "reward" if value is None else value)] = "reward"
    """What must differ within a group: `acc` or `score` (the reward before shaping, unless there is a dimension of that
    name), `reward`, `seq_reward` or `seq_final_reward` (with the penalty for length), or the name of a reward
    dimension."""
    max_num_gen_batches: Count = 0
    """Generation batches in one step, after which it trains on the groups it has; without any the run stops with
    advice. 0 is no bound."""


class PfPpo(Section):
    """Preference-feedback PPO (arXiv 2409.06957): rollouts are drawn anew, with replacement, by their score."""

    reweight_method: Literal["pow", "max_min", "max_random"] = "pow"
    """Weight of a rollout: `pow` |score|^weight_pow; `max_min` 1 for the best and worst, else 0; `max_random` 0.4 for
    the best, else 0.1."""
    weight_pow: Float = 2.0
    """Exponent of `pow`."""


class Algorithm(Section):
    """How rewards become advantages."""

    adv_estimator: str | None = "gae"
    """Advantage estimator: one of `agentlightning.learner.advantages`, or a name registered with `register_adv_est`.
    null only where the loss needs no advantages (`policy_loss.loss_mode` `online_dpo` or `sppo`)."""
    gamma: Share = 1.0
    """Discount per token (`gae`, `reinforce_plus_plus`)."""
    lam: Share = 1.0
    """Lambda of generalised advantage estimation."""
    norm_adv_by_std_in_grpo: bool = True
    """Divide by the group's standard deviation; False is Dr.GRPO."""
    gdpo_reward_keys: list[str] | None = None
    """`gdpo`: the reward dimensions that are normalised each on its own."""
    gdpo_reward_weights: list[Float] | None = None
    """`gdpo`: weight of each of them; null is 1."""
    use_kl_in_reward: bool = False
    """Subtract a KL penalty against the reference model from the reward of each token."""
    kl_penalty: KlKind = "kl"
    """Its estimate by token."""
    kl_ctrl: KlCtrl = Field(default_factory=KlCtrl)
    """Its weight."""
    filter_groups: FilterGroups = Field(default_factory=FilterGroups)
    """Dynamic sampling of DAPO."""
    use_pf_ppo: bool = False
    """Draw rollouts anew by their score, after `gae`."""
    pf_ppo: PfPpo = Field(default_factory=PfPpo)
    """How they are drawn."""
    rollout_correction: RolloutCorrection = Field(default_factory=RolloutCorrection)
    """What is done where the sampler's log-probs and the learner's differ."""
    dpo_beta: Positive = 0.1
    """`online_dpo`: how far the policy may go from the reference; larger stays nearer."""
    dpo_loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """`online_dpo`: DPO's logistic loss, or the squared one of IPO (arXiv 2310.12036)."""
    dpo_label_smoothing: Annotated[Share, Field(lt=0.5)] = 0.0
    """`online_dpo`: share of pairs that are taken to be labelled wrongly."""
    sppo_eta: NonNegative = 1.0
    """`sppo`: sharpness of the soft mean that rewards are compared with; 0 is the plain mean."""

    @field_validator("adv_estimator")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        module = "agentlightning.learner.advantages"
        return choice(value, ESTIMATORS, module, "advantage_estimators", "register_adv_est")
