"""Task order and seeds are functions of (seed, step) alone."""

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.verl.tasks import TaskOrder, stable_seed


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
