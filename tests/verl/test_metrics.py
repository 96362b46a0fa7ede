"""Training metrics, each against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agentlightning.types import Episode, Rollout
from agentlightning.verl.metrics import (
    gap_metrics,
    length_metrics,
    overlong_metrics,
    policy_metrics,
    seqlen_metrics,
    staleness_metrics,
    stats,
    step_metrics,
    throughput_metrics,
    timing_per_token,
    val_metrics,
)
from agentlightning.verl.sample import Sample

from .deployed import scored
from .rollouts import call, one_turn
from .rollouts import sample as rolled


def test_statistics_of_numbers_and_of_nothing() -> None:
    assert stats("x", [1, 2, 6]) == {"x/mean": 3.0, "x/max": 6.0, "x/min": 1.0}
    assert stats("x", []) == {}


def test_the_gap_between_sampler_and_learner_is_one_of_probabilities() -> None:
    found = gap_metrics(np.log([0.5, 0.25, 0.1]), np.log([0.4, 0.25, 0.2]))
    # gaps 0.1, 0, 0.1: mean 0.2/3, sample standard deviation sqrt((2 * (1/30)² + (1/15)²) / 2) = 1/sqrt(300)
    assert found["training/rollout_probs_diff_mean"] == pytest.approx(0.2 / 3)
    assert found["training/rollout_probs_diff_max"] == pytest.approx(0.1)
    assert found["training/rollout_probs_diff_std"] == pytest.approx(1 / np.sqrt(300))
    assert found["training/rollout_probs_diff_valid"] == 1.0
    # deviations from the means 17/60 and 17/60: (13, -2, -11)/60 and (7, -2, -5)/60
    correlation = (13 * 7 + 2 * 2 + 11 * 5) / np.sqrt((169 + 4 + 121) * (49 + 4 + 25))
    assert found["training/rollout_actor_probs_pearson_corr"] == pytest.approx(correlation)


def test_sampler_and_learner_that_agree() -> None:
    found = gap_metrics([-1.0, -1.0], [-1.0, -1.0])
    assert found["training/rollout_probs_diff_max"] == 0.0
    assert found["training/rollout_actor_probs_pearson_corr"] == 1.0
    assert gap_metrics([-1.0], [-2.0])["training/rollout_probs_diff_std"] == 0.0
    assert gap_metrics([], []) == {"training/rollout_probs_diff_valid": 0.0}


def test_lengths_tell_aborted_and_cut_off_responses() -> None:
    found = length_metrics([10, 20, 30], [0, 4, 8], cut_off=[False, False, True], max_prompt=30)
    assert found == {
        "prompt_length/mean": 20.0,
        "prompt_length/max": 30.0,
        "prompt_length/min": 10.0,
        "prompt_length/clip_ratio": pytest.approx(1 / 3),
        "response_length/mean": 4.0,
        "response_length/max": 8.0,
        "response_length/min": 0.0,
        "response_length/clip_ratio": pytest.approx(1 / 3),
        "response_length_non_aborted/mean": 6.0,
        "response_length_non_aborted/max": 8.0,
        "response_length_non_aborted/min": 4.0,
        "response/aborted_ratio": pytest.approx(1 / 3),
    }
    assert length_metrics([], [], cut_off=[]) == {}


def test_calls_that_were_tokenised_again_are_a_share_and_not_stale() -> None:
    """Nobody knows which weights sampled them: their version is 0 for want of a better one."""
    made, recorded = (
        one_turn(0, 0, 1.0),
        rolled(0, 1, [replace(call([1, 2], [3]), weights_version=6), call([1, 2, 3, 4], [5], logprobs=False)], 1.0),
    )
    again = replace(recorded.episode, retokenized=1)
    groups = scored([made, replace(recorded, episodes={"main_llm": again})])
    assert step_metrics([item.sample for item in groups[0]], groups)["training/retokenized_share"] == 1 / 3
    staleness = policy_metrics([groups[0][1:]], 7)
    assert staleness["training/off_policy/trajectory_staleness_worst/max"] == 1.0
    assert staleness["training/off_policy/trajectory_spans/max"] == 1.0


def test_how_evenly_workers_are_loaded() -> None:
    assert seqlen_metrics([100, 300], [190, 210]) == {
        "global_seqlen/min": 100.0,
        "global_seqlen/max": 300.0,
        "global_seqlen/minmax_diff": 200.0,
        "global_seqlen/balanced_min": 190.0,
        "global_seqlen/balanced_max": 210.0,
        "global_seqlen/mean": 200.0,
    }
    assert seqlen_metrics([50])["global_seqlen/balanced_max"] == 50.0


def test_throughput_is_tokens_per_second_and_worker() -> None:
    assert throughput_metrics(1000, 2.0, workers=4) == {
        "perf/total_num_tokens": 1000.0,
        "perf/time_per_step": 2.0,
        "perf/throughput": 125.0,
    }


def test_generation_is_timed_by_response_tokens_the_rest_by_all() -> None:
    timings = {"timing_s/gen": 1.0, "timing_s/update_actor": 3.0, "timing_s/step": 9.0}
    assert timing_per_token(timings, response_tokens=100, all_tokens=600) == {
        "timing_per_token_ms/gen": 10.0,
        "timing_per_token_ms/update_actor": 5.0,
    }
    assert timing_per_token(timings, response_tokens=0, all_tokens=0) == {}


def test_staleness_counts_versions_behind() -> None:
    found = staleness_metrics([[4, 4], [2, 3], []], current=4)
    prefix = "training/off_policy/trajectory"
    assert found[f"{prefix}_spans/mean"] == 1.5
    assert found[f"{prefix}_staleness/max"] == 1.0
    assert found[f"{prefix}_staleness/mean"] == 0.5
    assert found[f"{prefix}_staleness_worst/max"] == 2.0


def test_overlong_answers_are_counted() -> None:
    assert overlong_metrics([0.0, -0.5, 0.0, -1.0]) == {
        "reward/overlong_reward/mean": -0.375,
        "reward/overlong_reward/max": 0.0,
        "reward/overlong_reward/min": -1.0,
        "reward/overlong/mean": 0.5,
    }
    assert overlong_metrics([]) == {}


def sample(task: int, reward: float | None, error: str | None = None, /, **rewards: float) -> Sample:
    labels = {"pred": "4"} if reward else {}
    episode = Episode("ro", [], [], reward, rewards=rewards, labels=labels)
    rollout = Rollout(rollout_id="ro", input={"data_source": "s"}, start_time=0.0)
    return Sample(task=task, sample=0, rollout=rollout, episodes={"main_llm": episode}, error=error)


def test_a_validation_counts_failures_and_reports_every_dimension() -> None:
    samples = [sample(0, 1.0, reward=1.0, acc=1.0), sample(0, 0.0, reward=0.0, acc=0.0), sample(1, None, "Timeout: x")]
    found = val_metrics(samples, fill=-1.0)
    assert found["val/reward"] == 0.0
    assert (found["val/n_rollouts"], found["val/n_rollouts_failed"]) == (3.0, 1.0)
    assert found["val-core/s/acc/mean@2"] == 0.5
    assert found["val-aux/s/acc/mean@1"] == -1.0, "a failed rollout has no accuracy: it counts as the fill value"
    assert "val-core/s/acc/maj@2/mean" in found


def test_a_validation_takes_off_what_shaping_takes_off() -> None:
    found = val_metrics([sample(0, 1.0), sample(1, 1.0)], fill=0.0, shape=lambda episode: -0.5 * (episode.reward or 0))
    assert found["val/reward"] == found["val-core/s/reward/mean@1"] == 0.5
    assert found["val-aux/s/overlong_reward/mean@1"] == -0.5
    assert found["val-aux/s/overlong/mean@1"] == 1.0
