"""Task order and seeds are functions of (seed, step) alone, with a curriculum of what was recorded, too."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.types import ConfigError, DatasetError
from agentlightning.verl.tasks import SuccessRateOrder, TaskOrder, stable_seed, task_order


def test_an_epoch_runs_every_task_once_but_for_the_incomplete_batch():
    order = TaskOrder(10, 3, seed=0)
    first = [index for step in (1, 2, 3) for index in order.batch(step)]
    assert len(first) == len(set(first)) == 9
    assert first != [index for step in (4, 5, 6) for index in order.batch(step)]


def test_without_shuffle_the_order_is_the_datasets():
    order = TaskOrder(5, 2, seed=0, shuffle=False)
    assert [order.batch(step) for step in (1, 2, 3)] == [[0, 1], [2, 3], [0, 1]]


@given(size=st.integers(1, 50), batch=st.integers(1, 60), step=st.integers(1, 100), seed=st.integers(0, 5))
def test_any_step_can_be_asked_without_those_before(size, batch, step, seed):
    one, other = TaskOrder(size, batch, seed=seed), TaskOrder(size, batch, seed=seed)
    for earlier in range(1, step):
        one.batch(earlier)
    tasks = one.batch(step)
    assert tasks == other.batch(step)
    assert len(set(tasks)) == len(tasks) == min(batch, size)


def test_seeds_are_stable_and_differ():
    # Written down once: a change here would break the resume of runs made before it.
    assert stable_seed(0, "train", 1, 2, 3) == 8678129737287521143
    seeds = {stable_seed(0, "train", step, task, n) for step in range(5) for task in range(5) for n in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)


def recorded(order, scores):
    for task, values in scores.items():
        for value in values:
            order.record(task, value)
    return order


def test_a_task_weighs_as_its_success_rate_says():
    # window 2: a score counts half as much with each one after it
    order = recorded(
        SuccessRateOrder(5, 1, seed=0, epsilon=0.02, window=2),
        {0: [0, 0], 1: [1, 1, 1], 2: [0, 1], 3: [1, 1, 0]},
    )
    two = (0.5 * 0 + 1) / (0.5 + 1)  # 2/3
    three = (0.25 + 0.5 + 0) / (0.25 + 0.5 + 1)  # 3/7
    expected = [0.02, 0.02, two * (1 - two) + 0.02, three * (1 - three) + 0.02, 0.27]
    np.testing.assert_allclose(order.weights(), expected, rtol=1e-12)


def test_rewards_between_the_bounds_are_partial_success_and_those_outside_count_as_the_bound():
    order = recorded(SuccessRateOrder(3, 1, seed=0, epsilon=0.1, lowest=-1, highest=1), {0: [-0.5], 1: [7], 2: [-9]})
    np.testing.assert_allclose(order.weights(), [0.25 * 0.75 + 0.1, 0.1, 0.1], rtol=1e-12)


def test_tasks_are_drawn_in_proportion_to_their_weights():
    order = recorded(SuccessRateOrder(4, 1, seed=3, epsilon=0.05), {0: [0], 1: [1], 2: [0.1]})
    steps = 20_000
    counts = np.bincount([order.batch(step)[0] for step in range(1, steps + 1)], minlength=4)
    weights = np.array([0.05, 0.05, 0.14, 0.3])
    expected = weights / weights.sum()
    assert (np.abs(counts / steps - expected) < 4 * np.sqrt(expected * (1 - expected) / steps)).all()


def test_the_second_of_a_batch_is_drawn_from_the_rest_in_proportion():
    order = recorded(SuccessRateOrder(3, 2, seed=4, epsilon=0.05), {0: [0], 1: [0.1]})
    steps = 20_000
    left_out = np.bincount([({0, 1, 2} - {*order.batch(step)}).pop() for step in range(1, steps + 1)], minlength=3)
    w = np.array([0.05, 0.14, 0.3]) / 0.49
    expected = np.array([w[1] * w[2] * (1 / (1 - w[1]) + 1 / (1 - w[2])),
                         w[0] * w[2] * (1 / (1 - w[0]) + 1 / (1 - w[2])),
                         w[0] * w[1] * (1 / (1 - w[0]) + 1 / (1 - w[1]))])  # fmt: skip
    assert (np.abs(left_out / steps - expected) < 4 * np.sqrt(expected * (1 - expected) / steps)).all()


@given(
    size=st.integers(1, 30),
    batch=st.integers(1, 40),
    step=st.integers(1, 50),
    scores=st.lists(st.tuples(st.integers(0, 29), st.floats(0, 1)), max_size=30),
)
def test_a_curriculum_goes_on_from_its_state_as_if_never_stopped(size, batch, step, scores):
    order = SuccessRateOrder(size, batch, seed=1)
    for task, score in scores:
        order.record(task % size, score)
    resumed = SuccessRateOrder(size, batch, seed=1)
    resumed.load(json.loads(json.dumps(order.state())))
    tasks = order.batch(step)
    assert resumed.batch(step) == tasks == order.batch(step)
    assert len(set(tasks)) == len(tasks) == min(size, batch)
    for each in (order, resumed):
        each.record(0, 0.5)
    assert (resumed.weights() == order.weights()).all()


def test_a_curriculum_of_another_dataset_is_refused():
    with pytest.raises(DatasetError, match="for 3 training tasks and the dataset has 4"):
        SuccessRateOrder(4, 1, seed=0).load(SuccessRateOrder(3, 1, seed=0).state())


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="score of task 0 is nan"):
        SuccessRateOrder(4, 1, seed=0).record(0, float("nan"))


def test_without_a_curriculum_scores_change_nothing_and_there_is_no_state():
    order = task_order(10, 3, seed=5)
    recorded(order, {0: [1.0], 1: [0.0]})
    assert order.state() == {}
    assert [order.batch(step) for step in range(1, 8)] == [TaskOrder(10, 3, seed=5).batch(step) for step in range(1, 8)]


def test_a_curriculum_is_made_from_its_configuration():
    order = task_order(10, 3, seed=5, curriculum={"name": "success_rate", "epsilon": 0.5})
    np.testing.assert_allclose(order.weights(), [0.75] * 10)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "easy"}, "`agentlightning.curriculum.name` is 'easy'; possible: 'success_rate'"),
        ({"epsilon": 0.1}, "`agentlightning.curriculum.name` is None"),
        ({"name": "success_rate", "speed": 1}, "speed"),
        ({"name": "success_rate", "epsilon": 0}, "`agentlightning.curriculum.epsilon` is 0; it must be above 0"),
        ({"name": "success_rate", "window": 0.5}, "`agentlightning.curriculum.window` is 0.5"),
        ({"name": "success_rate", "lowest": 1}, "`agentlightning.curriculum.lowest` \\(1\\) must be below"),
    ],
)
def test_a_wrong_curriculum_is_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        task_order(10, 3, seed=0, curriculum=spec)
