"""`PolicyRun`: one policy in training. What a step's rollouts teach it, from log-probs to new weights, is `learn`.

    rollouts -> old log-probs -> reference, values -> rewards on tokens -> advantages -> critic step, policy steps

Called by the loop in `trainer`, once for each policy and step; the maths are in `learner`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from agentlightning.credit import CreditRule
from agentlightning.inference.engine import Engine
from agentlightning.learner.advantages import requirements
from agentlightning.learner.checkpoint import CriticPart, LearnerPart, Part, ReferencePart
from agentlightning.learner.kl import apply_kl_penalty, make_kl_controller
from agentlightning.learner.learner import Learner
from agentlightning.learner.losses import softmean
from agentlightning.learner.objectives import Value
from agentlightning.learner.reference import Reference
from agentlightning.learner.value import Critic
from agentlightning.utils.seeds import stable_seed

from .config import VerlConfig
from .config.schema import PolicyConfig
from .estimate import advantages, reward_components, token_rewards
from .experience import Experience
from .logprobs import LOGPROB_GAP, corrected, with_old_logprobs
from .metrics import stats, timed
from .rows import Scored, mini_batches
from .updates import ONLINE_DPO, SPPO_LOSS, aggregation, chosen, make_objective, moves_silent_rows


class PolicyRun:
    """One policy, what it is compared with, and what values its states.

    Args:
        name: Of its resource.
        config: Settings of the run.
        own: Settings of this policy.
        engine: Serves it, from the weights in training.
        tokenizer: Saved beside its weights.
        learner: Takes its steps.
        critic: The value model, where the estimator needs one.
        reference: What KL terms and preference losses compare with.
        credit: What each turn earned.
    """

    def __init__(
        self,
        name: str,
        config: VerlConfig,
        own: PolicyConfig,
        *,
        engine: Engine,
        tokenizer: Any,
        learner: Learner,
        critic: Critic | None,
        reference: Reference | None,
        credit: CreditRule,
    ) -> None:
        self.name = name
        self.config = config
        self.own = own
        self.engine = engine
        self.tokenizer = tokenizer
        self.learner = learner
        self.critic = critic
        self.reference = reference
        self.credit = credit
        self.kl = make_kl_controller(config.algorithm.kl_ctrl.model_dump())
        self._actor = own.actor_rollout_ref.actor
        self._temperature = own.actor_rollout_ref.rollout.temperature
        self._mode = config.loss_mode(own)
        # Self-play compares rewards itself; its rewards stand where those of an outcome estimator do.
        self._estimator = "grpo" if config.is_self_play(own) else str(config.algorithm.adv_estimator)
        self._needs = requirements(self._estimator)

    def learn(
        self,
        groups: Sequence[Sequence[Scored]],
        step: int,
        metrics: dict[str, float],
        *,
        baselines: Mapping[tuple[int, int], float] | None = None,
        earlier: Sequence[Sequence[Scored]] = (),
    ) -> None:
        """Train on the rollouts of step `step`; the engine then serves the next version of the weights.

        Args:
            groups: The rollouts, with what their turns earned.
            step: Counted from 1.
            metrics: What is measured is put in here, under verl's names; times are added up.
            baselines: The greedy rollout's reward of each group, for `remax`.
            earlier: What it answered to the same tasks before, for SPIN's pairs.

        Raises:
            TrainingError: loss or gradient were not finite in too many steps in a row, or rewards lack a dimension.
        """
        experience = Experience.of([*groups, *earlier])
        with self.engine.updating():
            self._update_reference(step)
            if experience.rows:
                self._learn(experience, step, baselines or {}, metrics)
            metrics["actor/lr"] = self.learner.lr
            self.learner.advance()
            if self.critic is not None:
                metrics["critic/lr"] = self.critic.lr
                self.critic.advance()

    def _learn(
        self,
        experience: Experience,
        step: int,
        baselines: Mapping[tuple[int, int], float],
        metrics: dict[str, float],
    ) -> None:
        kept: Sequence[np.ndarray] | None = None
        experience = self._known(experience, step, metrics)
        if self._mode != ONLINE_DPO:
            with timed(metrics, "adv"):
                experience, kept = corrected(experience, self.config.algorithm.rollout_correction, metrics)
                experience = self._valued(experience, baselines, metrics)
        if self.critic is not None:
            with timed(metrics, "update_critic"):
                metrics |= self._update_critic(experience, step)
        if step >= self.config.trainer.critic_warmup:
            with timed(metrics, "update_actor"):
                found = self._update_actor(experience, step, kept)
                # What a fresh forward found counts: old log-probs may come from it, and are then no gap at all.
                metrics |= found | {name: metrics[name] for name in (LOGPROB_GAP,) if name in metrics}

    def parts(self) -> dict[str, Part]:
        """What a checkpoint holds of it, by folder. A reference that follows the policy is not what it was at first."""
        parts: dict[str, Part] = {"actor": LearnerPart(self.learner, self.tokenizer)}
        if self.critic is not None:
            parts["critic"] = CriticPart(self.critic, self.tokenizer)
        if self.reference is not None and self.config.trainer.ref_update_freq > 0:
            parts["ref"] = ReferencePart(self.reference)
        return parts

    # -- what is known of each token ----------------------------------------------------------------------------------

    def _update_reference(self, step: int) -> None:
        frequency = self.config.trainer.ref_update_freq
        if self.reference is not None and frequency > 0 and step % frequency == 0:
            self.reference.sync(self.learner.model)

    def _known(self, experience: Experience, step: int, metrics: dict[str, float]) -> Experience:
        """The rows with `old_logprobs`, and `ref_logprobs`, `values` and `sum_pi_squared` where they are needed."""
        with timed(metrics, "old_log_prob"):
            correction = self.config.algorithm.rollout_correction
            experience = with_old_logprobs(experience, self.learner, self._temperature, correction, step, metrics)
        if self.reference is not None:
            with timed(metrics, "ref"):
                logprobs = self.reference.logprobs(experience.rows, self._temperature)
                experience = experience.with_columns(ref_logprobs=logprobs)
        if self.critic is not None:
            with timed(metrics, "values"):
                experience = experience.with_columns(values=self.critic.outputs(experience.rows))
        if self._needs.sum_pi_squared:
            found = self.learner.statistics(experience.rows, self._temperature)
            experience = experience.with_columns(sum_pi_squared=found.sum_pi_squared)
        return experience

    # -- what it was worth --------------------------------------------------------------------------------------------

    def _valued(
        self, experience: Experience, baselines: Mapping[tuple[int, int], float], metrics: dict[str, float]
    ) -> Experience:
        """The rows with `advantages` and `returns`."""
        settings = self.config.algorithm
        scores = token_rewards(experience, self._estimator)
        rewards = self._less_kl(experience, scores, metrics)
        if self._mode == SPPO_LOSS:
            of_rollout = rewards.sum(-1)
            worth = (of_rollout - softmean(of_rollout, settings.sppo_eta))[:, None] * experience.mask_RT
            result, returns = worth, worth
        else:
            result, returns = advantages(
                experience,
                self._estimator,
                rewards,
                self.credit,
                settings.model_dump(),
                **self._inputs(experience, baselines),
            )
        metrics |= stats("critic/rewards", rewards.sum(-1).numpy())
        mask = experience.mask_RT > 0
        metrics |= stats("critic/advantages", result[mask].numpy()) | stats("critic/returns", returns[mask].numpy())
        return experience.with_columns(advantages=experience.columns_of(result), returns=experience.columns_of(returns))

    def _less_kl(self, experience: Experience, scores: torch.Tensor, metrics: dict[str, float]) -> torch.Tensor:
        """KL in the reward: what each token departs from the reference is taken off."""
        settings = self.config.algorithm
        if not settings.use_kl_in_reward:
            return scores
        rewards, current = apply_kl_penalty(
            scores,
            experience.matrix_RT("old_logprobs"),
            experience.matrix_RT("ref_logprobs"),
            experience.mask_RT,
            settings.kl_penalty,
            self.kl.value,
        )
        metrics |= {"actor/reward_kl_penalty": float(current), "actor/reward_kl_penalty_coeff": self.kl.value}
        self.kl.update(float(current), len(experience.rollouts))
        return rewards

    def _inputs(self, experience: Experience, baselines: Mapping[tuple[int, int], float]) -> dict[str, Any]:
        """What the estimator reads besides rewards."""
        needs = self._needs
        known: dict[str, Any] = {}
        if needs.values:
            known["values"] = experience.matrix_RT("values")
        if needs.sum_pi_squared:
            known["old_log_probs"] = experience.matrix_RT("old_logprobs")
            known["sum_pi_squared"] = experience.matrix_RT("sum_pi_squared")
            if all("rollout_is_weights" in row.columns for row in experience.rows):
                known["rollout_is_weights"] = experience.matrix_RT("rollout_is_weights")
        if needs.reward_baselines:
            known["reward_baselines"] = torch.tensor([baselines[item.sample.group] for item in experience.rollouts])
        if needs.components:
            known |= reward_components(experience, list(self.config.algorithm.gdpo_reward_keys or []))
        return known

    # -- steps --------------------------------------------------------------------------------------------------------

    def _update_critic(self, experience: Experience, step: int) -> dict[str, float]:
        assert self.critic is not None
        settings = self.own.critic
        objective = Value(cliprange_value=settings.cliprange_value)
        batches = mini_batches(
            experience,
            size=settings.ppo_mini_batch_size,
            loss_agg_mode=settings.loss_agg_mode,
            loss_scale_factor=settings.loss_scale_factor,
            shuffle_seed=self._shuffle_seed(step),
        )
        critic = self.critic
        updates = [critic.update(rows, objective) for _ in range(settings.ppo_epochs) for rows in batches]
        mask = experience.mask_RT > 0
        values, returns = experience.matrix_RT("values")[mask], experience.matrix_RT("returns")[mask]
        explained = 1.0 - float((returns - values).var(correction=0) / (returns.var(correction=0) + 1e-5))
        return _means(updates) | stats("critic/values", values.numpy()) | {"critic/vf_explained_var": explained}

    def _update_actor(self, experience: Experience, step: int, kept: Sequence[np.ndarray] | None) -> dict[str, float]:
        """`ppo_epochs` passes over the mini-batches."""
        experience, kept, groups = chosen(self.config, self.own, experience, step, kept)
        batches = mini_batches(
            experience,
            size=self._actor.ppo_mini_batch_size,
            loss_agg_mode=aggregation(self.config, self.own),
            loss_scale_factor=self._actor.loss_scale_factor,
            shuffle_seed=self._shuffle_seed(step),
            keep_silent=moves_silent_rows(self.config, self.own),
            kept=kept,
            groups=groups,
        )
        updates: list[dict[str, float]] = []
        for epoch in range(self._actor.ppo_epochs):
            for number, rows in enumerate(batches):
                seed = stable_seed(self.config.agentlightning.seed, "loss", step, epoch, number)
                updates.append(self.learner.update(rows, make_objective(self.config, self.own, rows, seed=seed)))
        metrics = _means(updates)
        if updates and "actor/abs_log_ratio" in updates[0]:
            # The first mini-batch is scored by the very weights that sampled it: its log-ratios are the engine's error.
            metrics[LOGPROB_GAP] = updates[0]["actor/abs_log_ratio"]
        return metrics

    def _shuffle_seed(self, step: int) -> int | None:
        return stable_seed(self._actor.data_loader_seed, "mini-batches", step) if self._actor.shuffle else None


def _means(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the optimizer steps that have the number; of the steps left out their count."""
    names = dict.fromkeys(name for update in updates for name in update)
    known = {name: [update[name] for update in updates if name in update] for name in names}
    return {
        name: sum(values) / (1 if name.endswith("/skipped_nonfinite") else len(values))
        for name, values in known.items()
    }
