"""Padded batches of rollouts whose tokens are written by hand."""

from __future__ import annotations

import pytest
import torch

from agentlightning.types import TrainingError
from agentlightning.verl.batches import Lengths, padded_batch

from .test_rows import call, one_turn, sample

PAD = 9


def padded(samples, prompt=4, response=3, **changes):
    return padded_batch(
        samples, "main_llm", Lengths(prompt, response, PAD), **{"fill": 0.0, "device": "cpu", **changes}
    )


def test_a_turn_is_a_row_with_its_prompt_on_the_left_and_its_response_on_the_right():
    batch, _ = padded([sample(5, 0, [call([1, 2, 3], [4, 5])], 0.25)])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "prompts": [[PAD, 1, 2, 3]],
        "responses": [[4, 5, PAD]],
        "input_ids": [[PAD, 1, 2, 3, 4, 5, PAD]],
        "attention_mask": [[0, 1, 1, 1, 1, 1, 0]],
        "position_ids": [[0, 0, 1, 2, 3, 4, 4]],
        "response_mask": [[1, 1, 0]],
        "token_level_scores": [[0.0, 0.25, 0.0]],
        "rollout_log_probs": [[-1.0, -1.0, 0.0]],
        "is_drop_mask": [False],
        "uid": [5],
        "rollout_index": [0],
        "turn_index": [0],
    }
    whole = {"prompts", "responses", "input_ids", "attention_mask", "position_ids", "response_mask"}
    assert {name for name, tensor in batch.items() if tensor.dtype == torch.int64} == {
        *whole,
        "uid",
        "rollout_index",
        "turn_index",
    }


def test_every_turn_gets_the_final_reward():
    two_turns = sample(0, 0, [call([1], [2]), call([1, 2, 3], [4, 5])], 0.5)
    batch, metrics = padded([two_turns, one_turn(0, 1, None)], fill=-1.0)
    assert batch["token_level_scores"].tolist() == [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, -1.0, 0.0]]
    assert batch["turn_index"].tolist() == [0, 1, 0]
    assert batch["rollout_index"].tolist() == [0, 0, 1]
    assert batch["uid"].tolist() == [0, 0, 0]
    assert metrics == {
        "training/reward": -0.25,
        "training/n_rollouts": 2.0,
        "training/n_rollouts_w_trace": 2.0,
        "training/n_rollouts_w_reward": 1.0,
        "training/n_rollouts_failed": 0.0,
        "training/n_groups_dropped": 0.0,
        "training/n_triplets": 3.0,
        "training/n_truncated_triplets": 0.0,
        "training/n_dropped_triplets": 0.0,
    }


def test_what_is_too_long_is_cut_as_the_helpers_do_and_counted(caplog):
    batch, metrics = padded([sample(0, 0, [call([1, 2, 3, 4, 5, 6], [7, 8, 7, 8, PAD])], 1.0)])
    assert batch["prompts"].tolist() == [[3, 4, 5, 6]]
    assert batch["responses"].tolist() == [[7, 8, 7]]
    assert batch["token_level_scores"].tolist() == [[0.0, 0.0, 1.0]]
    assert batch["rollout_log_probs"].shape == (1, 3)
    assert batch["is_drop_mask"].tolist() == [True]
    assert (metrics["training/n_truncated_triplets"], metrics["training/n_dropped_triplets"]) == (1.0, 1.0)
    assert "1 of 1 responses are longer than `max_response_length` (3) and lose their end" in caplog.text


@pytest.mark.parametrize("length", [1, 3])
def test_an_end_token_that_is_also_the_pad_is_attended_to_and_scored(length):
    """Of one token that just ends, and of one that fills the row to its end."""
    batch, metrics = padded([sample(0, 0, [call([1], [7] * (length - 1) + [PAD])], 1.0)])
    assert batch["response_mask"].sum() == length
    assert batch["attention_mask"].sum() == 1 + length
    assert batch["token_level_scores"][0, length - 1] == 1.0
    assert metrics["training/n_truncated_triplets"] == 0.0


def test_an_empty_response_is_not_to_be_trained_on():
    batch, metrics = padded([sample(0, 0, [call([1, 2], [])], 1.0), one_turn(0, 1, 0.0)])
    assert batch["is_drop_mask"].tolist() == [True, False]
    assert batch["token_level_scores"][0].tolist() == [0.0, 0.0, 0.0]
    assert metrics["training/n_dropped_triplets"] == 1.0


def test_log_probs_are_there_if_they_are_known_of_all_rows():
    batch, _ = padded([one_turn(0, 0, 1.0), sample(0, 1, [call([1], [2], logprobs=False)], 0.0)])
    assert "rollout_log_probs" not in batch


def test_a_torn_group_is_left_out_whole():
    cut_off = one_turn(0, 1, 1.0, status="timeout", error="timeout")
    batch, metrics = padded([one_turn(0, 0, 1.0), cut_off, one_turn(1, 0, 3.0)])
    assert batch["uid"].tolist() == [1]
    assert batch["rollout_index"].tolist() == [0]
    assert metrics["training/n_groups_dropped"] == 1.0
    assert metrics["training/reward"] == 3.0


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([], "had no tasks"),
        ([one_turn(0, 0, float("nan"))], r"no group is whole; rollout \S+ has a reward \(the final one\)"),
    ],
)
def test_a_batch_without_a_row_says_why(samples, reason):
    with pytest.raises(TrainingError, match=reason):
        padded(samples)
