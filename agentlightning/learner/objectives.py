"""What a training step minimises: an objective turns a mini-batch's outputs into a loss.

Supervised fine-tuning, reinforcement learning, the critic and preference learning are objectives of one learner. The
loops in `verl/` and `algorithm/sft` make them, `Learner.update` calls them, the formulas are in `losses/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from agentlightning.types import ConfigError

from .batch import Tokens
from .kl import kl_penalty
from .losses import (
    FlatSequences,
    PaddedLoss,
    Padding,
    PolicyLoss,
    PolicyTokens,
    Settings,
    compute_online_dpo_loss,
    get_policy_loss,
    sppo_aggregate,
    value_losses,
)

Contribution = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Parts of the loss by name, scalars to be summed; and metrics, sums over the trained tokens, to be divided by their
number in the mini-batch."""


class Objective(Protocol):
    """A loss of the trained tokens of a mini-batch."""

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        ...

    @property
    def needs_entropy(self) -> bool:
        """Whether `entropy_N` is wanted."""
        ...

    @property
    def local(self) -> bool:
        """Whether the loss is a sum over tokens, each depending on that token alone, so that parts of a mini-batch add
        up. Otherwise it has to see all tokens of a mini-batch at once."""
        ...

    def __call__(self, tokens: Tokens, outputs_N: Tensor, entropy_N: Tensor | None) -> Contribution:
        """The loss of these tokens; `outputs_N` are log-probs of a policy or values of a critic."""
        ...


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Supervised fine-tuning: `-sum w log p`. Reads the column `weights`."""

    temperature: float = 1.0
    needs_entropy: bool = False
    local: bool = True

    def __call__(self, tokens: Tokens, outputs_N: Tensor, entropy_N: Tensor | None) -> Contribution:
        return {"train/loss": -(tokens.columns["weights"] * outputs_N).sum()}, {"train/nll": -outputs_N.detach().sum()}


@dataclass(frozen=True, slots=True)
class Policy:
    """Reinforcement learning: a policy loss, minus an entropy bonus, plus a KL to the reference.

    Reads the columns `weights`, `old_logprobs`, `advantages`; `ref_logprobs` for the KL; `rollout_is_weights` if they
    are there. All terms are aggregated by `weights`. Losses in verl's padded signature (registered ones, and
    `bypass_mode`) get one row a rollout and aggregate by themselves.

    Args:
        loss_mode: A name in `losses`.
        config: Leaf names of `actor.*` that the loss reads; `seed` for a loss that chooses tokens at random.
        entropy_coeff: Weight of the entropy bonus.
        temperature: Temperature at which the rollouts were sampled.
        needs_entropy: Measure the entropy.
        kl_loss_coef: Weight of the KL to the reference.
        kl_loss_type: Its estimator, see `kl.kl_penalty`.

    Raises:
        ConfigError: there is no such loss, or it can't be aggregated by turns.
    """

    loss_mode: str = "vanilla"
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    entropy_coeff: float = 0.0
    temperature: float = 1.0
    needs_entropy: bool = True
    kl_loss_coef: float = 0.0
    kl_loss_type: str = "low_var_kl"

    def __post_init__(self) -> None:
        mode = self.config.get("loss_agg_mode")
        if mode == "per-rollout-mean" and not isinstance(get_policy_loss(self.loss_mode), PolicyLoss):
            raise ConfigError(
                f"`loss_agg_mode` {mode!r} needs losses per token; `policy_loss.loss_mode` {self.loss_mode!r} gets "
                "padded rollouts, in which turns can't be told apart; choose a `seq-` mode"
            )

    @property
    def local(self) -> bool:
        """Whether the policy loss is; entropy and KL are."""
        loss = get_policy_loss(self.loss_mode)
        return isinstance(loss, PolicyLoss) and loss.scope == "token"

    def __call__(self, tokens: Tokens, outputs_N: Tensor, entropy_N: Tensor | None) -> Contribution:
        loss, settings = get_policy_loss(self.loss_mode), Settings.of(self.config)
        if isinstance(loss, PolicyLoss):
            value, sums = _flat_loss(loss, settings, tokens, outputs_N)
        else:
            value, sums = _padded_loss(loss, settings, tokens, outputs_N)
        sums["actor/abs_log_ratio"] = (outputs_N.detach() - tokens.columns["old_logprobs"]).abs().sum()
        parts, more = _regularisers(
            tokens, outputs_N, entropy_N, self.entropy_coeff, self.kl_loss_coef, self.kl_loss_type
        )
        return {"actor/pg_loss": value, **parts}, {**sums, **more}


def _flat_loss(
    loss: PolicyLoss, settings: Settings, tokens: Tokens, logprobs_N: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    columns = tokens.columns
    seen = PolicyTokens(
        logprobs_N,
        columns["old_logprobs"],
        columns["advantages"],
        FlatSequences.of(tokens.sequence_N) if loss.scope == "sequence" else FlatSequences(tokens.sequence_N, 0),
        columns.get("rollout_is_weights"),
    )
    losses, metrics = loss(seen if loss.choose is None else seen.with_chosen(loss.choose(seen, settings)), settings)
    return (columns["weights"] * losses).sum(), {name: value.sum() for name, value in metrics.items()}


def _padded_loss(
    loss: PaddedLoss, settings: Settings, tokens: Tokens, logprobs_N: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    columns, padding = tokens.columns, Padding(tokens.sequence_N)
    # The denominators of the whole mini-batch: a loss that rejects tokens must not make the others weigh more.
    totals = {"batch_num_tokens": len(tokens), "global_batch_size": padding.shape[0]}
    weights = columns.get("rollout_is_weights")
    value, metrics = loss(
        old_log_prob=padding.pad(columns["old_logprobs"]),
        log_prob=padding.pad(logprobs_N),
        advantages=padding.pad(columns["advantages"]),
        response_mask=padding.mask,
        loss_agg_mode=settings.loss_agg_mode,
        config=Settings({**settings, "global_batch_info": {**totals, **settings.global_batch_info}}),
        rollout_is_weights=None if weights is None else padding.pad(weights),
    )
    return value, _sums(metrics, len(tokens))


def _regularisers(
    tokens: Tokens,
    logprobs_N: Tensor,
    entropy_N: Tensor | None,
    entropy_coeff: float,
    kl_loss_coef: float,
    kl_loss_type: str,
) -> Contribution:
    """The entropy bonus and the KL to the reference. `actor/kl_loss` is the KL itself, as in verl."""
    weights = tokens.columns["weights"]
    parts: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    if entropy_N is not None:
        sums["actor/entropy"] = entropy_N.detach().sum()
        if entropy_coeff:
            parts["actor/entropy_loss"] = -entropy_coeff * (weights * entropy_N).sum()
    if kl_loss_coef:
        kl = kl_penalty(logprobs_N, tokens.columns["ref_logprobs"], kl_loss_type)
        parts["actor/kl_penalty"] = kl_loss_coef * (weights * kl).sum()
        sums |= {"actor/kl_loss": kl.detach().sum(), **_sums({"actor/kl_coef": kl_loss_coef}, len(tokens))}
    return parts, sums


def _sums(metrics: Mapping[str, Any], tokens: int) -> dict[str, Tensor]:
    """Numbers of the whole mini-batch as sums over its tokens."""
    return {name: torch.as_tensor(value).detach().double() * tokens for name, value in metrics.items()}


@dataclass(frozen=True, slots=True)
class Value:
    """The critic's clipped squared error. Reads the columns `weights`, `values`, `returns`.

    Args:
        cliprange_value: How far a value may move from the old one before its gain stops counting.
    """

    cliprange_value: float = 0.5
    temperature: float = 1.0
    needs_entropy: bool = False
    local: bool = True

    def __call__(self, tokens: Tokens, outputs_N: Tensor, entropy_N: Tensor | None) -> Contribution:
        columns = tokens.columns
        losses, clipped = value_losses(outputs_N, columns["returns"], columns["values"], self.cliprange_value)
        sums = {"critic/vf_clipfrac": clipped.sum(), "critic/vpred_mean": outputs_N.detach().sum()}
        return {"critic/vf_loss": (columns["weights"] * losses).sum()}, sums


@dataclass(frozen=True, slots=True, eq=False)
class OnlineDPO:
    """SPIN: prefer the chosen rollout of each pair to the rejected one. Reads the column `ref_logprobs`.

    The mean over pairs, whatever `loss_agg_mode` says; a rollout's log-prob is the sum over its trained tokens.

    Args:
        pairs: (P, 2) numbers of the chosen and the rejected sequence in the mini-batch.
        beta, loss_type, label_smoothing, reference_free: See `losses.compute_online_dpo_loss`.
        temperature: Temperature at which the rollouts were sampled.
    """

    pairs: Sequence[tuple[int, int]] | np.ndarray
    beta: float = 0.1
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    reference_free: bool = False
    temperature: float = 1.0
    needs_entropy: bool = False
    local: bool = False

    def __call__(self, tokens: Tokens, outputs_N: Tensor, entropy_N: Tensor | None) -> Contribution:
        pairs = torch.as_tensor(np.asarray(self.pairs, np.int64).reshape(-1, 2), device=tokens.sequence_N.device)
        sequences = FlatSequences(tokens.sequence_N, 1 + int(max(tokens.sequence_N.max(), pairs.max())))
        policy = sequences.total(outputs_N)[pairs]
        reference = torch.zeros_like(policy)
        if not self.reference_free:
            reference = sequences.total(tokens.columns["ref_logprobs"])[pairs]
        loss = compute_online_dpo_loss(
            policy[:, 0],
            policy[:, 1],
            reference[:, 0],
            reference[:, 1],
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            loss_type=self.loss_type,
            reference_free=self.reference_free,
        )
        rewards = self.beta * (policy - reference).detach()
        margins = rewards[:, 0] - rewards[:, 1]
        metrics = {
            "actor/dpo_logits": margins.mean() / self.beta,
            "actor/policy_chosen_logps": policy[:, 0].mean(),
            "actor/policy_rejected_logps": policy[:, 1].mean(),
            "actor/reference_chosen_logps": reference[:, 0].mean(),
            "actor/reference_rejected_logps": reference[:, 1].mean(),
            "actor/rewards_chosen": rewards[:, 0].mean(),
            "actor/rewards_rejected": rewards[:, 1].mean(),
            "actor/rewards_margins": margins.mean(),
            "actor/rewards_accuracies": (margins > 0).to(margins.dtype).mean(),
        }
        return {"actor/dpo_loss": loss}, _sums(metrics, len(tokens))


@dataclass(frozen=True, slots=True)
class SPPO:
    """Self-play preference optimisation. Reads `old_logprobs`, and in `advantages` the reward of the token's rollout.

    Args:
        eta: Scale of the reward.
        temperature: Temperature at which the rollouts were sampled.
        loss_agg_mode, loss_scale_factor: See `losses.sppo_aggregate`; the factor is by default the longest rollout.
        entropy_coeff, kl_loss_coef, kl_loss_type: As in `Policy`; these terms read `weights` and `ref_logprobs`.
    """

    eta: float = 1.0
    temperature: float = 1.0
    loss_agg_mode: str = "token-mean"
    loss_scale_factor: float | None = None
    entropy_coeff: float = 0.0
    kl_loss_coef: float = 0.0
    kl_loss_type: str = "low_var_kl"
    local: bool = False

    @property
    def needs_entropy(self) -> bool:
        """For the bonus."""
        return self.entropy_coeff != 0.0

    def __call__(self, tokens: Tokens, outputs_N: Tensor, entropy_N: Tensor | None) -> Contribution:
        sequences = FlatSequences.of(tokens.sequence_N)
        counts = sequences.counts()
        ratios = sequences.total(outputs_N - tokens.columns["old_logprobs"])
        preferences = self.eta * sequences.total(tokens.columns["advantages"]) / counts.clamp(min=1)
        factor = self.loss_scale_factor or float(counts.max())
        loss = sppo_aggregate((ratios - preferences).square(), counts, self.loss_agg_mode, factor)
        real = counts > 0
        metrics = {"actor/log_ratio_mean": ratios[real].mean(), "actor/preference_mean": preferences[real].mean()}
        parts, sums = _regularisers(
            tokens, outputs_N, entropy_N, self.entropy_coeff, self.kl_loss_coef, self.kl_loss_type
        )
        return {"actor/sppo_loss": loss, **parts}, {**_sums(metrics, len(tokens)), **sums}
