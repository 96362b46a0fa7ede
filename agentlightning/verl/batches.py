"""Finished rollouts as one padded batch, for training loops of a user's own: a row for each turn.

Called by `AgentModeDaemon.get_train_data_batch`. Our own loop packs rows and pads nothing (`experience`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agentlightning.types import TrainingError

from .padding import get_left_padded_ids_and_attention_mask, get_right_padded_ids_and_attention_mask
from .rows import whole_groups
from .sample import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long each side of a row is, in tokens, and what it is filled with."""

    prompt: int
    response: int
    pad_token_id: int


def padded_batch(
    samples: Sequence[Sample], policy: str, lengths: Lengths, *, fill: float, device: str | torch.device
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Every turn of `policy` as a row that earned the final reward of its rollout.

    Groups that failures tore are left out whole.

    Args:
        samples: All rollouts of a batch.
        policy: Whose turns.
        lengths: P and R below.
        fill: Reward of a rollout that gave none.
        device: Where the tensors lie.

    Returns:
        Tensors by name (see `SteppedBatches.get_train_data_batch`) and metrics.

    Raises:
        TrainingError: no turn is left.
    """
    groups, dropped = whole_groups(samples)
    kept = [sample for group in groups for sample in group]
    numbered = list(enumerate(kept))
    turns = [(number, sample, turn) for number, sample in numbered for turn in range(_count(sample, policy))]
    if not turns:
        raise TrainingError(f"there is nothing to train on: {_reason(samples, policy)}")
    rewards = [fill if sample.reward is None else sample.reward for sample in kept]
    calls = [sample.episodes[policy].turns[turn].call for _, sample, turn in turns]
    batch = _ids([call.prompt_ids.tolist() for call in calls], [call.response_ids.tolist() for call in calls], lengths)
    batch["token_level_scores"] = _on_last_token(
        torch.tensor([rewards[number] for number, _, _ in turns]), batch["response_mask"]
    )
    if all(call.logprobs is not None for call in calls):
        batch["rollout_log_probs"] = _padded([call.logprobs for call in calls], lengths.response)
    batch["uid"] = torch.tensor([sample.task for _, sample, _ in turns])
    batch["rollout_index"] = torch.tensor([number for number, _, _ in turns])
    batch["turn_index"] = torch.tensor([turn for _, _, turn in turns])
    cut = [len(call.response_ids) for call in calls if len(call.response_ids) > lengths.response]
    if cut:
        logger.warning(
            "%d of %d responses are longer than `max_response_length` (%d) and lose their end; it would take %d",
            len(cut),
            len(calls),
            lengths.response,
            max(cut),
        )
    metrics = {
        "training/reward": float(np.mean(rewards)),
        "training/n_rollouts": float(len(samples)),
        "training/n_rollouts_w_trace": float(sum(_count(sample, policy) > 0 for sample in samples)),
        "training/n_rollouts_w_reward": float(sum(sample.reward is not None for sample in samples)),
        "training/n_rollouts_failed": float(sum(sample.error is not None for sample in samples)),
        "training/n_groups_dropped": float(dropped),
        "training/n_triplets": float(len(turns)),
        "training/n_truncated_triplets": float(len(cut)),
        "training/n_dropped_triplets": float(batch["is_drop_mask"].sum()),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}, metrics


def _ids(prompts: Sequence[list[int]], responses: Sequence[list[int]], lengths: Lengths) -> dict[str, Tensor]:
    """The tensors that follow from the token ids."""
    left = [get_left_padded_ids_and_attention_mask(prompt, lengths.prompt, lengths.pad_token_id) for prompt in prompts]
    right = [
        get_right_padded_ids_and_attention_mask(response, lengths.response, lengths.pad_token_id)
        for response in responses
    ]
    prompts_BP, responses_BR = torch.tensor([ids for ids, _ in left]), torch.tensor([ids for ids, _ in right])
    response_mask_BR = torch.tensor([mask for _, mask in right])
    attention_mask_BT = torch.cat([torch.tensor([mask for _, mask in left]), response_mask_BR], dim=1)
    unusable = [
        len(prompt) > lengths.prompt or not response for prompt, response in zip(prompts, responses, strict=True)
    ]
    return {
        "prompts": prompts_BP,
        "responses": responses_BR,
        "input_ids": torch.cat([prompts_BP, responses_BR], dim=1),
        "attention_mask": attention_mask_BT,
        "position_ids": (attention_mask_BT.cumsum(dim=1) - 1).clamp(min=0),
        "response_mask": response_mask_BR,
        "is_drop_mask": torch.tensor(unusable),
    }


def _on_last_token(rewards_B: Tensor, response_mask_BR: Tensor) -> Tensor:
    """(B, R) zeros but for each row's reward on its last token; a row without one has none."""
    scores_BR = torch.zeros(response_mask_BR.shape)
    rows = response_mask_BR.any(dim=1).nonzero()[:, 0]
    scores_BR[rows, response_mask_BR.sum(dim=1)[rows] - 1] = rewards_B[rows]
    return scores_BR


def _padded(parts: Sequence[np.ndarray | None], length: int) -> Tensor:
    """(B, length) the parts, cut or filled with zeros on the right."""
    result = torch.zeros(len(parts), length)
    for row, part in zip(result, parts, strict=True):
        assert part is not None
        row[: len(part)] = torch.from_numpy(part[:length].copy())
    return result


def _count(sample: Sample, policy: str) -> int:
    return len(sample.episodes[policy].turns)


def _reason(samples: Sequence[Sample], policy: str) -> str:
    """Why no turn is left, for people."""
    if not samples:
        return "the batch had no tasks"
    torn = next((sample for sample in samples if sample.torn), None)
    if torn is None:
        return f"no agent called the model of `{policy}`"
    return f"no group is whole; rollout {torn.rollout.rollout_id} {torn.flaw}"
