"""The pieces of `make bench-algorithms`: the matrix, noise, the entropy law, the tables. No run of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agentlightning as agl
from agentlightning.verl.config import load_config
from benchmarks.algorithms import matrix, table
from benchmarks.algorithms.compare import Piece, is_there, pieces
from benchmarks.algorithms.fit import entropy_fit
from benchmarks.algorithms.recorder import HELD, REWARD, ROLLOUTS, Recorder
from benchmarks.algorithms.variance import TITLES, Probe, batch_advantages, noise
from benchmarks.algorithms.warm import settings_of
from tests.learning.bandit import BASE, TASKS, bandit, make_model

REINFORCED = [name for name, algorithm in matrix.ALGORITHMS.items() if algorithm.preset is not None]


@pytest.mark.parametrize("name", REINFORCED)
def test_every_algorithm_of_the_matrix_is_a_valid_configuration(name: str) -> None:
    algorithm = matrix.ALGORITHMS[name]
    config = load_config(algorithm.settings("model", 3), preset=algorithm.preset).config
    assert (config.agentlightning.seed, config.actor_rollout_ref.rollout.n) == (3, 8)
    (own,) = config.policies().values()
    assert config.needs_critic(own) == algorithm.critic


def test_the_matrix_names_all_algorithms_of_the_documents_comparison() -> None:
    titles = {algorithm.title for algorithm in matrix.ALGORITHMS.values()}
    page = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text()
    rows = table.between(page, "comparison").strip().splitlines()[2:]
    assert {row.split("|")[1].strip() for row in rows} <= titles


def test_fine_tuning_runs_before_what_starts_from_it() -> None:
    order = list(pieces(["sft_ppo"], [0, 1], noise=False))
    assert order == [Piece("warm"), Piece("start"), *(Piece(n, s) for s in (0, 1) for n in ("sft", "sft_ppo"))]


def test_a_result_counts_only_with_the_settings_of_now(tmp_path: Path) -> None:
    piece = Piece("rloo", 1)
    assert not is_there(piece, tmp_path)
    piece.file(tmp_path).parent.mkdir()
    settings = settings_of("rloo", tmp_path, 1)
    piece.file(tmp_path).write_text(json.dumps({"settings": settings}))
    assert is_there(piece, tmp_path)
    settings["config"]["actor_rollout_ref.actor.optim.lr"] *= 2
    piece.file(tmp_path).write_text(json.dumps({"settings": settings}))
    assert not is_there(piece, tmp_path)


# -- gradient noise ---------------------------------------------------------------------------------------------------


def test_noise_of_three_gradients_by_hand() -> None:
    # Mean (3, 1, 1), squared norm 11. Deviations (0, 2, -1), (0, -1, 2), (0, -1, -1): trace (5 + 5 + 2) / 2 = 6.
    gradients = np.array([[3.0, 3.0, 0.0], [3.0, 0.0, 3.0], [3.0, 0.0, 0.0]])
    found = noise(gradients)
    assert (found.trace, found.signal, found.value) == pytest.approx((6.0, 9.0, 6.0 / 9.0))


def test_noise_does_not_depend_on_the_scale_of_the_gradients_and_finds_the_truth() -> None:
    generator = np.random.default_rng(0)
    mean = generator.normal(size=50)
    gradients = mean + 2.0 * generator.normal(size=(400, 50))
    found = noise(gradients)
    truth = 50 * 4.0 / float(mean @ mean)
    assert abs(found.value - truth) < 4 * found.error < truth
    assert noise(7.0 * gradients).value == pytest.approx(found.value)


def test_of_a_coin_that_mostly_succeeds_no_baseline_has_less_noise_than_the_mean() -> None:
    # One logit, success p = 0.9, gradients of the log-probability 0.1 and -0.9. Of reward times gradient the mean is
    # p (1 - p) = 0.09 under any baseline b and the second moment p (1 - b)^2 0.01 + (1 - p) b^2 0.81:
    # 0.009 without one, 0.0657 with b = p.
    successes = np.random.default_rng(0).random(20_000) < 0.9
    slopes = np.where(successes, 0.1, -0.9)
    bare, centred = (noise(((successes - b) * slopes)[:200, None]) for b in (0.0, 0.9))
    assert bare.value < centred.value / 3
    moments = [float(np.mean(((successes - b) * slopes) ** 2)) for b in (0.0, 0.9)]
    assert moments == pytest.approx([0.009, 0.0657], rel=0.05)


def test_noise_needs_three_gradients() -> None:
    with pytest.raises(ValueError, match="2 gradients"):
        noise(np.ones((2, 3)))


def test_baselines_on_the_same_rollouts_by_hand() -> None:
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    greedy = torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = {
        "reinforce": [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]],
        "reinforce_less_one": [[0.0, 0.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]],
        "rloo": [[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]],
        "remax": [[0.0, 0.0], [-1.0, -1.0], [1.0, 0.0], [1.0, 0.0]],
    }
    for name, advantages in expected.items():
        found = batch_advantages(name, rewards, mask, ["a", "a", "b", "b"], greedy)
        assert torch.allclose(found * mask, torch.tensor(advantages)), name


# -- entropy ----------------------------------------------------------------------------------------------------------


def test_the_entropy_law_is_found_again() -> None:
    entropies = [0.1, 0.4, 0.2, 0.9, 0.5]
    fit = entropy_fit(entropies, [-0.3 * float(np.exp(h)) + 1.2 for h in entropies])
    assert (fit.a, fit.b, fit.r2, fit.ceiling) == pytest.approx((0.3, 1.2, 1.0, 0.9))


def test_the_entropy_law_explains_nothing_of_unrelated_rewards() -> None:
    # exp(H) is 1, 2, 3 and the rewards go up and down: the best line is flat.
    fit = entropy_fit(np.log([1.0, 2.0, 3.0]).tolist(), [0.0, 1.0, 0.0])
    assert (fit.a, fit.b, fit.r2) == pytest.approx((0.0, 1 / 3, 0.0))


def test_an_entropy_that_never_changes_has_no_law() -> None:
    with pytest.raises(ValueError, match="no line"):
        entropy_fit([0.5, 0.5, 0.5], [0.1, 0.2, 0.3])


# -- tables -----------------------------------------------------------------------------------------------------------


def result(reward: float, **more: Any) -> dict[str, Any]:
    return {"reward": reward, "problems": 400.0, "wall_s": 50.0, "cpu_s": 60.0, "peak_mib": 700.0, **more}


def test_a_line_of_the_table_by_hand() -> None:
    curve = {"rewards": [0.5, 0.8, 0.8, 0.8], "rollouts": [320.0] * 4, "held": 5.0}
    ends = [result(0.8, **curve), result(0.9, **curve)]
    line = table.line("grpo", [result(0.5)] * 2, ends, idle_mib=650.0)
    # Errors of 0.5, 0.8 and 0.9 on 400 problems: 0.025, 0.02, 0.015.
    assert (line.start, line.end, line.gain) == pytest.approx((0.5, 0.85, 0.35))
    assert line.error == pytest.approx(np.hypot(0.025, np.hypot(0.02, 0.015) / 2))
    assert line.interval == pytest.approx(1.96 * 0.05)  # two seeds 0.1 apart: 0.0707 / sqrt(2)
    assert (line.rollouts, line.held, line.memory, line.improved) == (960.0, 5.0, 50.0, True)


def test_a_seed_within_two_errors_of_its_start_is_no_improvement() -> None:
    line = table.line("sft", [result(0.5)] * 2, [result(0.9), result(0.56)], idle_mib=0.0)
    assert line.gain > table.LEAST_GAIN
    assert not line.improved
    assert dataclasses.replace(line, clear=True).improved


def test_a_threshold_that_is_never_reached_is_named() -> None:
    assert table.rollouts_until([0.9, 0.9, 0.5, 0.5], [1.0] * 4, 0.8, 3) == float("inf")
    line = table.line("grpo", [result(0.5)], [result(0.5, rewards=[0.5], rollouts=[1.0], held=5.0)], 0.0)
    assert "| not reached |" in table.comparison([line])


def test_a_running_mean_counts_rollouts_and_not_steps() -> None:
    # The last 4 rollouts at least, whole steps: none, 1 + 3, 3 + 2, 4.
    means = table.recent_means([0.0, 0.4, 1.0, 0.5], [1.0, 3.0, 2.0, 4.0], 4)
    assert means == [None, pytest.approx(0.3), pytest.approx(0.64), pytest.approx(0.5)]
    assert table.rollouts_until([0.0, 0.4, 1.0, 0.5], [1.0, 3.0, 2.0, 4.0], 0.6, 4) == 6.0


def test_measured_columns_replace_those_of_an_earlier_run() -> None:
    header = "| algorithm | a | b | c | d | preset | old |\n|---|---|---|---|---|---|---|"
    page = f"{header}\n| GRPO | 1 | 2 | 3 | 4 | `grpo` | x |"
    line = table.line("grpo", [result(0.5)], [result(0.8, rewards=[0.9] * 3, rollouts=[700.0] * 3, held=5.0)], 0.0)
    once = table.with_measured_columns(page, [line])
    assert once.splitlines()[2].startswith("| GRPO | 1 | 2 | 3 | 4 | `grpo` | +0.300 ± 0.032 | 700 | 5 |")
    assert table.with_measured_columns(once, [line]) == once


def test_only_the_text_between_the_markers_is_replaced() -> None:
    page = "a\n<!-- measured -->\nold\n<!-- /measured -->\nb\n"
    assert table.replaced(page, "measured", "new") == "a\n<!-- measured -->\nnew\n<!-- /measured -->\nb\n"
    with pytest.raises(ValueError, match="no `<!-- other -->`"):
        table.replaced(page, "other", "new")


# -- the loop, watched ------------------------------------------------------------------------------------------------


def fit(directory: Path, trainer_cls: Any, **config: Any) -> list[dict[str, float]]:
    model = make_model(directory / "model", 0)
    settings = {**BASE, "actor_rollout_ref.model.path": str(model), "trainer.total_training_steps": 3, **config}
    algorithm = agl.VERL({**settings, "trainer.val_before_train": False}, trainer_cls=trainer_cls)
    agl.Trainer(algorithm=algorithm, n_runners=8, store=agl.InMemoryLightningStore()).fit(bandit, TASKS)
    return algorithm.history


def test_the_recorder_counts_greedy_rollouts_and_what_training_holds(tmp_path: Path) -> None:
    history = fit(tmp_path, Recorder, **{"algorithm.adv_estimator": "remax"})
    assert [row[ROLLOUTS] for row in history] == [4 * 8 + 4] * 3
    assert all(0 < row[REWARD] < 1 for row in history)
    assert [row[HELD] for row in history] == [4.0] * 3  # weights, gradient, two moments


def test_the_probe_takes_gradients_of_all_estimators_and_learns_nothing(tmp_path: Path) -> None:
    found: dict[str, list[Any]] = {name: [] for name in TITLES}
    probe = type("Counting", (Probe,), {"gradients": found})
    history = fit(tmp_path, probe, **{"algorithm.adv_estimator": "remax", "data.train_batch_size": 8})
    assert all("actor/lr" not in row for row in history)
    assert {name: len(gradients) for name, gradients in found.items()} == dict.fromkeys(TITLES, 3)
    first, second = found["rloo"][:2]
    assert np.linalg.norm(first) > 0
    assert not np.array_equal(first, second)  # the same tasks, other rollouts
