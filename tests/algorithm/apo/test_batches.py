"""Batches of tasks."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from agentlightning.algorithm.apo.batches import Batches, deal
from agentlightning.types import ConfigError


def batches(size: int, batch: int, seed: int = 0) -> Batches:
    return Batches(size, batch, lambda epoch: random.Random(f"{seed}/{epoch}"))


def shuffled(size: int, epoch: int, seed: int = 0) -> list[int]:
    order = list(range(size))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def test_an_epoch_is_a_shuffle_cut_into_batches() -> None:
    made = batches(8, 4)
    assert made.next() + made.next() == shuffled(8, 0)
    assert made.next() + made.next() == shuffled(8, 1)


def test_a_batch_that_is_left_incomplete_is_filled_from_the_next_epoch() -> None:
    for seed in range(20):
        made = batches(5, 3, seed)
        first, second = made.next(), made.next()
        assert first + second[:2] == shuffled(5, 0, seed)
        filled = next(task for task in shuffled(5, 1, seed) if task not in second[:2])
        assert second[2] == filled


def test_no_task_is_twice_in_a_batch_and_all_come_equally_often() -> None:
    made = batches(7, 5)
    seen: Counter[int] = Counter()
    for _ in range(7):
        batch = made.next()
        assert len(set(batch)) == 5
        seen.update(batch)
    assert set(seen.values()) == {5}


@pytest.mark.parametrize("batch", [4, 9])
def test_a_batch_as_big_as_the_data_is_all_of_it(batch: int) -> None:
    made = batches(4, batch)
    assert made.next() == shuffled(4, 0)
    assert made.next() == shuffled(4, 1)


def test_a_batch_can_be_asked_for_by_number() -> None:
    made, again = batches(7, 3), batches(7, 3)
    in_turn = [made.next() for _ in range(6)]
    assert [again.at(number) for number in (5, 0, 3)] == [in_turn[5], in_turn[0], in_turn[3]]


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="`batch` 0 of 4 tasks"):
        batches(4, 0)


def test_jobs_get_batches_of_their_own_or_share_them() -> None:
    a, b, c = (batches(8, 2).at(number) for number in range(3))
    assert deal(batches(8, 2), ["v1", "v0", "v1"], "job") == [a, b, c]
    assert deal(batches(8, 2), ["v1", "v0", "v1"], "parent") == [a, b, a]
    assert deal(batches(8, 2), ["v1", "v0", "v1"], "round") == [a, a, a]
