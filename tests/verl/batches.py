"""What one step makes of groups of samples, up to the rows that the learner gets."""

from agentlightning.credit import get_credit
from agentlightning.verl.estimate import advantages, token_rewards
from agentlightning.verl.experience import Experience
from agentlightning.verl.rows import mini_batches, score

identical = get_credit("identical")


def valued(groups, cfg, credit=identical, estimator="grpo"):
    """What one step makes of groups of samples: rows with their advantages."""
    fill = cfg.agentlightning.reward_fillna_value
    experience = Experience.of(score(groups, "main_llm", credit, fill=fill))
    rewards = token_rewards(experience, estimator)
    found, _ = advantages(experience, estimator, rewards, credit, cfg.algorithm.model_dump())
    recorded = [row.columns["rollout_logprobs"] for row in experience.rows]
    return experience.with_columns(advantages=experience.columns_of(found), old_logprobs=recorded)


def numbers(experience):
    """By rollout and turn: its advantage; `None` where it is not trained."""
    result = [[None] * len(item.episode.turns) for item in experience.rollouts]
    for row, turns in zip(experience.rows, experience.turns, strict=True):
        for turn, value in zip(turns.tolist(), row.columns["advantages"].tolist(), strict=True):
            assert result[row.sequence][turn] in (None, value), "all tokens of a turn have the same"
            result[row.sequence][turn] = value
    return result


def batches(groups, cfg, credit=identical, **changes):
    actor = cfg.actor_rollout_ref.actor
    settings = {"size": actor.ppo_mini_batch_size, "loss_agg_mode": actor.loss_agg_mode, "keep_silent": False}
    return mini_batches(valued(groups, cfg, credit), **{**settings, **changes})
