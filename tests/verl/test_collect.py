"""What a step has to learn from: groups, dynamic sampling and its bounds, baselines, shaping, earlier answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.types import TrainingError
from agentlightning.verl.collect import Collected, Collector, shaping
from agentlightning.verl.config import VerlConfig, load_config
from agentlightning.verl.failures import FailedSteps
from agentlightning.verl.sample import Sample
from agentlightning.verl.tasks import TaskOrder

from .rollouts import call, one_turn, sample

N = 2
Make = Callable[[int, int, int], Sample]
"""(task, draw, number) -> the rollout."""


def config(**changes: Any) -> VerlConfig:
    base = {
        "algorithm.adv_estimator": "grpo",
        "actor_rollout_ref.model.path": "m",
        "actor_rollout_ref.rollout.n": N,
        "data.train_batch_size": 2,
        "data.shuffle": False,
    }
    return load_config({**base, **changes}).config


def dynamic(**changes: Any) -> VerlConfig:
    return config(**{"algorithm.filter_groups.enable": True, **changes})


class FakeDaemon:
    """Rollouts by a function; remembers what it was asked for."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.batches: list[list[tuple[int, int]]] = []
        self.made: dict[str, Sample] = {}
        self.greedy = False

    async def run_batch(self, tasks: Any, *, n: int, step: int, draws: Any, greedy: bool, **_: Any) -> list[Sample]:
        self.batches.append([(task, draw) for (task, _), draw in zip(tasks, draws, strict=True)])
        samples = [self.make(task, draw, number) for task, draw in self.batches[-1] for number in range(n)]
        if greedy:
            samples += [one_turn(task, -1 - draw, 0.5, draw=draw, greedy=True) for task, draw in self.batches[-1]]
        self.made |= {sample.rollout.rollout_id: sample for sample in samples}
        return samples

    async def recall(self, rollout_ids: Any) -> list[Sample]:
        return [self.made[rollout_id] for rollout_id in rollout_ids]


def differing(*speaking: int) -> Make:
    """In groups of these tasks rewards differ; in the others all are 1."""
    return lambda task, draw, number: one_turn(
        task, draw * N + number, float(number) if task in speaking else 1.0, draw=draw
    )


def collector(cfg: VerlConfig, make: Make, tasks: int = 6, batch: int = 2, **arguments: Any) -> Collector:
    order = TaskOrder(tasks, batch, seed=0, shuffle=False)
    daemon: Any = FakeDaemon(make)
    return Collector(cfg, daemon, order, list(range(tasks)), **arguments)


def batches_of(made: Collector) -> list[list[tuple[int, int]]]:
    daemon: Any = made._daemon
    return daemon.batches


def collect(made: Collector, step: int = 1) -> Collected:
    return asyncio.run(made.collect(step, "rs"))


def tasks_of(collected: Collected) -> list[int]:
    return [group[0].task for group in collected.groups]


def test_a_step_is_one_batch_of_whole_groups() -> None:
    made = collector(config(), differing(0))
    found = collect(made)
    assert tasks_of(found) == [0, 1]
    assert (found.torn, found.silent, found.batches, made.drawn) == (0, 0, 1, 1)
    assert len(found.samples) == 4


def test_a_torn_group_is_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    def make(task: int, draw: int, number: int) -> Sample:
        return one_turn(task, number, float("nan") if (task, number) == (1, 0) else 1.0)

    with caplog.at_level(logging.WARNING):
        found = collect(collector(config(), make))
    assert (tasks_of(found), found.torn, len(found.samples)) == ([0], 1, 4)
    assert "1 of 2 groups is left out; rollout ro-1-1-0 has a reward (the final one) that is not finite" in caplog.text


@pytest.mark.parametrize("number", [float("nan"), 1e300])
def test_where_every_group_is_torn_the_step_says_so_once(number: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = collect(collector(config(), lambda task, draw, at: one_turn(task, at, number)))
        FailedSteps().count(found, last=False)
    assert (found.groups, found.torn) == ([], 2)
    (record,) = caplog.records
    assert record.message.startswith("nothing could be learned in this step: the rewards are not finite")


def test_dynamic_sampling_draws_until_the_batch_is_full_and_drops_the_surplus() -> None:
    """Batches of 2 from 6 tasks, of which 0, 3 and 2 say something: (0, 1) gives one group, (2, 3) two; one is cut."""
    made = collector(dynamic(), differing(0, 2, 3))
    found = collect(made)
    assert batches_of(made) == [[(0, 0), (1, 0)], [(2, 0), (3, 0)]]
    assert tasks_of(found) == [0, 2]
    assert (found.silent, found.batches, made.drawn, len(found.samples)) == (1, 2, 2, 8)


def test_a_task_that_comes_again_in_a_step_makes_a_group_of_its_own() -> None:
    """Three batches are a pass over all tasks; the fourth draws task 0 a second time."""
    made = collector(dynamic(), differing(0))
    found = collect(made)
    assert batches_of(made)[3] == [(0, 1), (1, 1)]
    assert [group[0].group for group in found.groups] == [(0, 0), (0, 1)]
    assert len({sample.rollout.rollout_id for group in found.groups for sample in group}) == 4


def test_the_next_step_goes_on_where_the_last_one_stopped() -> None:
    made = collector(dynamic(), differing(0, 2, 3, 4, 5))
    collect(made)
    collect(made, step=2)
    assert batches_of(made)[2] == [(4, 0), (5, 0)]
    again = collector(dynamic(), differing(0))
    again.load(made.state())
    assert (again.drawn, made.state()) == (3, again.state())


def test_the_bound_takes_the_groups_there_are(caplog: pytest.LogCaptureFixture) -> None:
    made = collector(dynamic(**{"algorithm.filter_groups.max_num_gen_batches": 2}), differing(0))
    with caplog.at_level(logging.WARNING):
        found = collect(made)
    assert (tasks_of(found), found.batches) == ([0], 2)
    assert "found 1 of 2 groups in 2 generation batches" in caplog.text


@pytest.mark.parametrize(("bound", "batches"), [(2, 2), (0, 3)])
def test_no_group_at_all_ends_the_run_with_advice(bound: int, batches: int) -> None:
    """At the bound, or without one after a whole pass over the tasks."""
    made = collector(dynamic(**{"algorithm.filter_groups.max_num_gen_batches": bound}), differing())
    with pytest.raises(TrainingError, match=rf"drew {batches} generation batches and in no group .* neither too easy"):
        collect(made)


def test_without_a_bound_a_pass_in_which_no_further_group_speaks_is_the_end() -> None:
    """Task 0 differs the first time only: else the step would never end."""

    def make(task: int, draw: int, number: int) -> Sample:
        return one_turn(task, draw * N + number, float(number) if (task, draw) == (0, 0) else 1.0, draw=draw)

    found = collect(collector(dynamic(), make))
    assert (tasks_of(found), found.batches) == ([0], 4)


def test_failures_alone_are_for_the_loop_to_judge() -> None:
    def make(task: int, draw: int, number: int) -> Sample:
        return sample(task, number, [], None, status="failed", error="boom", draw=draw)

    found = collect(collector(dynamic(), make))
    assert (found.groups, found.silent, found.torn) == ([], 0, 6)


def test_groups_are_chosen_by_the_dimension_that_is_named() -> None:
    """Rewards differ everywhere; `quality` does in group 1."""

    def make(task: int, draw: int, number: int) -> Sample:
        return one_turn(task, number, float(number), quality=float(number) if task == 1 else 0.0)

    cfg = dynamic(**{"algorithm.filter_groups.metric": "quality", "algorithm.filter_groups.max_num_gen_batches": 1})
    assert tasks_of(collect(collector(cfg, make))) == [1]


def test_a_dimension_that_no_reward_has_is_named() -> None:
    cfg = dynamic(**{"algorithm.filter_groups.metric": "quality"})
    with pytest.raises(TrainingError, match=r"is 'quality', and the reward of rollout ro-1-0-0 has only \[\]"):
        collect(collector(cfg, differing(0)))


OVERLONG = {
    "data.max_response_length": 8,
    "reward.reward_kwargs.overlong_buffer_cfg.enable": True,
    "reward.reward_kwargs.overlong_buffer_cfg.len": 4,
}


@pytest.mark.parametrize(("metric", "groups"), [("acc", []), ("score", []), ("reward", [0]), ("seq_reward", [0])])
def test_the_penalty_for_length_counts_as_a_difference_where_it_is_asked_for(metric: str, groups: list[int]) -> None:
    """Equal rewards, answers of 2 and of 6 tokens: the longer one is 2 into a buffer of 4."""

    def make(task: int, draw: int, number: int) -> Sample:
        return one_turn(task, number, 1.0, length=2 + 4 * number if task == 0 else 2)

    limits = {"algorithm.filter_groups.metric": metric, "algorithm.filter_groups.max_num_gen_batches": 1}
    made = collector(dynamic(**OVERLONG, **limits), make)
    if groups:
        assert tasks_of(collect(made)) == groups
    else:
        with pytest.raises(TrainingError, match="in no group"):
            collect(made)


def test_shaping_looks_at_the_longest_answer_not_at_the_rollout() -> None:
    shape = shaping(config(**OVERLONG))
    assert shape is not None

    def penalty(*lengths: int) -> float:
        calls = [call([1] * (9 * turn + 1), [3] * length) for turn, length in enumerate(lengths)]
        return shape(sample(0, 0, calls, 1.0).episode)

    assert [penalty(4), penalty(5), penalty(8)] == [0.0, -0.25, -1.0]
    assert penalty(4, 4, 4) == 0.0
    assert penalty(4, 6) == -0.5
    assert shaping(config()) is None


def test_silent_groups_are_left_out_without_replacement_where_that_is_asked_for() -> None:
    made = collector(config(**{"agentlightning.filter_zero_variance": True}), differing(1))
    found = collect(made)
    assert (tasks_of(found), found.silent, found.batches) == ([1], 1, 1)


def test_a_group_of_one_is_never_silent() -> None:
    made = collector(dynamic(**{"actor_rollout_ref.rollout.n": 1}), differing())
    assert tasks_of(collect(made)) == [0, 1]


def test_the_greedy_rollout_of_a_torn_group_is_no_baseline() -> None:
    """Its reward may be what tore it."""

    def make(task: int, draw: int, number: int) -> Sample:
        return one_turn(task, number, float("nan") if (task, number) == (1, 0) else 1.0)

    found = collect(collector(config(), make, greedy=True))
    assert [*found.baselines] == [(0, 0)]


def test_greedy_rollouts_are_baselines_and_not_trained_on() -> None:
    found = collect(collector(config(), differing(0, 1), greedy=True))
    assert {group: sample.reward for group, sample in found.baselines.items()} == {(0, 0): 0.5, (1, 0): 0.5}
    assert [len(group) for group in found.groups] == [N, N]
    assert not any(sample.greedy for sample in found.samples)


def test_generation_batches_run_in_parts() -> None:
    made = collector(config(**{"data.gen_batch_size": 1}), differing(0))
    found = collect(made)
    assert batches_of(made) == [[(0, 0)], [(1, 0)]]
    assert (tasks_of(found), found.batches) == ([0, 1], 1)


def test_the_answers_of_the_last_time_come_back() -> None:
    """Two tasks, so each step runs both again."""
    made = collector(config(), differing(0, 1), tasks=2, earlier=True)
    daemon: Any = made._daemon
    assert collect(made).earlier == []
    first = set(daemon.made)
    daemon.make = lambda task, draw, number: one_turn(task, number, 0.0, step=2)
    found = collect(made, step=2)
    assert [group[0].task for group in found.earlier] == [0, 1]
    assert {sample.rollout.rollout_id for group in found.earlier for sample in group} == first
    resumed = collector(config(), differing(), tasks=2, earlier=True)
    resumed.load(made.state())
    assert resumed._answers == {task: [f"ro-2-{task}-{number}" for number in range(N)] for task in range(2)}


def test_the_order_is_told_what_every_rollout_earned_but_for_torn_ones() -> None:
    """Also of groups that are left out: that a task always succeeds is what a curriculum wants to know."""

    def make(task: int, draw: int, number: int) -> Sample:
        reward = {0: float(number), 1: None, 2: 1.0, 3: float("nan")}[task]
        return one_turn(task, number, reward)

    told: list[tuple[int, float]] = []

    class Order(TaskOrder):
        def record(self, task: int, score: float) -> None:
            told.append((task, score))

    cfg = config(**{"agentlightning.filter_zero_variance": True, "agentlightning.reward_fillna_value": -1.0})
    daemon: Any = FakeDaemon(make)
    collect(Collector(cfg, daemon, Order(4, 4, seed=0, shuffle=False), list(range(4))))
    assert told == [(0, 0.0), (0, 1.0), (1, -1.0), (1, -1.0), (2, 1.0), (2, 1.0)]
