"""The typed configuration: the keys that the loop in `verl/` uses, under verl's names.

Built by `compose.load_config`, read by the loop. The string under each field says what the field does. Keys of verl
that have no field here are answered or refused by `rules`.
"""

from __future__ import annotations

from pydantic import Field

from .actor import POLICY_LOSSES, SELF_PLAY_LOSSES, Actor, PolicyLoss
from .algorithm import ESTIMATORS, Algorithm, FilterGroups, KlCtrl, PfPpo
from .base import Section
from .correction import RolloutCorrection
from .critic import Critic
from .data import Data
from .model import CriticModel, Model
from .optim import CriticOptim, Optim
from .ours import Ours
from .policy import ActorRolloutRef, PolicyConfig
from .reward import CustomRewardFunction, OverlongBuffer, Reward, RewardKwargs
from .rollout import MultiTurn, Rollout, ValKwargs
from .trainer import Trainer

MAIN_POLICY = "main_llm"
"""Name of the policy, and of its resource, where there is one."""


class VerlConfig(Section):
    """The whole configuration of a reinforcement-learning run."""

    actor_rollout_ref: ActorRolloutRef
    """The model, how it is trained and how it is sampled."""
    algorithm: Algorithm = Field(default_factory=Algorithm)
    """How rewards become advantages."""
    critic: Critic = Field(default_factory=Critic)
    """The value model and its training step."""
    reward: Reward = Field(default_factory=Reward)
    """Where rewards come from if the agent gives none, and how they are shaped."""
    data: Data = Field(default_factory=Data)
    """Tasks, batches and lengths."""
    trainer: Trainer = Field(default_factory=Trainer)
    """The outer loop, what it writes and where it runs."""
    agentlightning: Ours = Field(default_factory=Ours)
    """Settings that verl has no key for."""

    def policies(self) -> dict[str, PolicyConfig]:
        """All policies by the name of their resource: those of `agentlightning.policies`, else the one `main_llm`."""
        only = PolicyConfig(actor_rollout_ref=self.actor_rollout_ref, critic=self.critic)
        return self.agentlightning.policies or {MAIN_POLICY: only}

    def loss_mode(self, policy: PolicyConfig | None = None) -> str:
        """The policy loss that runs: `policy_loss.loss_mode`, or `bypass_mode` where rollout correction says so."""
        named = (policy or self).actor_rollout_ref.actor.policy_loss.loss_mode
        return "bypass_mode" if self.algorithm.rollout_correction.bypass_mode else named

    def is_self_play(self, policy: PolicyConfig | None = None) -> bool:
        """Whether the loss is that of SPIN or SPPO, which needs rewards and no advantages."""
        actor = (policy or self).actor_rollout_ref.actor
        return actor.policy_loss.loss_mode in SELF_PLAY_LOSSES

    def needs_critic(self, policy: PolicyConfig | None = None) -> bool:
        """Whether a value model is trained."""
        wanted = (policy or self).critic.enable
        return not self.is_self_play(policy) and (self.algorithm.adv_estimator == "gae" if wanted is None else wanted)

    def needs_reference(self, policy: PolicyConfig | None = None) -> bool:
        """Whether log-probs of a reference model are needed: for a KL term, or by SPIN."""
        actor = (policy or self).actor_rollout_ref.actor
        return self.algorithm.use_kl_in_reward or actor.use_kl_loss or actor.policy_loss.loss_mode == "online_dpo"

    def device(self) -> str:
        """torch's name of the device to run on: a GPU where there is one, unless `trainer.device` is `cpu`."""
        import torch

        return "cuda" if self.trainer.device != "cpu" and torch.cuda.is_available() else "cpu"

    def is_deterministic(self) -> bool:
        """Whether equal runs write equal metrics: `agentlightning.deterministic`, by default yes on a CPU in fp32."""
        chosen = self.agentlightning.deterministic
        return self.device() == "cpu" and self._is_exact() if chosen is None else chosen

    def _is_exact(self) -> bool:
        """Whether every policy is in fp32: in bf16 the rounding of a row may depend on the rows beside it."""
        policies = self.policies().values()
        return all(own.actor_rollout_ref.actor.fsdp_config.torch_name() == "float32" for own in policies)


__all__ = [
    "ESTIMATORS",
    "MAIN_POLICY",
    "POLICY_LOSSES",
    "SELF_PLAY_LOSSES",
    "Actor",
    "ActorRolloutRef",
    "Algorithm",
    "Critic",
    "CriticModel",
    "CriticOptim",
    "CustomRewardFunction",
    "Data",
    "FilterGroups",
    "KlCtrl",
    "Model",
    "MultiTurn",
    "Optim",
    "Ours",
    "OverlongBuffer",
    "PfPpo",
    "PolicyConfig",
    "PolicyLoss",
    "Reward",
    "RewardKwargs",
    "Rollout",
    "RolloutCorrection",
    "Section",
    "Trainer",
    "ValKwargs",
    "VerlConfig",
]
