"""Filters, sorting and paging on every home."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from agentlightning.store import LightningStore
from agentlightning.types import AttemptedRollout

from .helpers import LLM_RESOURCES, enqueue, taken


async def test_rollout_filters(store: LightningStore):
    ids = await enqueue(store, 4)
    await taken(store)
    await store.update_rollout(ids[3], status="cancelled")

    async def found(**filters: Any) -> list[int]:
        return [rollout.input for rollout in await store.query_rollouts(**filters)]

    assert await found() == [0, 1, 2, 3]
    assert await found(status_in=["queuing"]) == [1, 2]
    assert await found(status_in=[]) == []
    assert await found(rollout_id_in=[ids[2], ids[0], "ro-x"]) == [0, 2]
    assert await found(rollout_id_contains=ids[1][3:]) == [1]
    assert await found(rollout_id_contains="") == [0, 1, 2, 3]
    assert await found(status_in=["queuing"], rollout_id_in=[ids[0], ids[1]]) == [1]
    assert await found(status_in=["cancelled"], rollout_id_in=[ids[0]], filter_logic="or") == [0, 3]
    assert await found(filter_logic="or") == [0, 1, 2, 3]


async def test_filters_take_any_number_of_values(local_store: LightningStore):
    ids = await enqueue(local_store, 2)
    many = [f"ro-{i:06}" for i in range(70_000)]
    page = await local_store.query_rollouts(rollout_id_in=[*many, ids[1]], status_in=["queuing"])
    assert [rollout.input for rollout in page] == [1]


async def test_rollouts_with_attempts_come_with_the_latest(store: LightningStore):
    ids = await enqueue(store, 200)
    for rollout in await store.dequeue_many_rollouts(limit=150):
        if rollout.input % 2:
            await store.start_attempt(rollout.rollout_id)
    page = await store.query_rollouts()
    assert [rollout.rollout_id for rollout in page] == ids
    attempted = [rollout for rollout in page if isinstance(rollout, AttemptedRollout)]
    assert [rollout.input for rollout in attempted] == list(range(150))
    assert [rollout.attempt.sequence_id for rollout in attempted] == [1 + i % 2 for i in range(150)]


async def test_pages(store: LightningStore):
    await enqueue(store, 7)

    async def page(limit: int, offset: int) -> tuple[list[int], int]:
        result = await store.query_rollouts(limit=limit, offset=offset)
        assert (result.limit, result.offset, len(result)) == (limit, offset, len(list(result)))
        return [rollout.input for rollout in result], result.total

    assert await page(3, 0) == ([0, 1, 2], 7)
    assert await page(3, 6) == ([6], 7)
    assert await page(-1, 5) == ([5, 6], 7)
    assert await page(2, 9) == ([], 7)


async def test_sorting_is_stable_and_puts_nothing_first(store: LightningStore):
    for value, mode in [(0, "val"), (1, None), (2, "train"), (3, "val"), (4, None)]:
        await store.enqueue_rollout(value, mode=mode)  # type: ignore[arg-type]

    async def found(**sorting: Any) -> list[int]:
        return [rollout.input for rollout in await store.query_rollouts(**sorting)]

    assert await found(sort_by="mode") == [1, 4, 2, 0, 3]
    assert await found(sort_by="mode", sort_order="desc") == [0, 3, 2, 1, 4]
    assert await found(sort_by="start_time", sort_order="asc") == [0, 1, 2, 3, 4]
    assert await found(sort_by="mode", limit=2, offset=1) == [4, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "`limit` is 0"),
        ({"limit": -2}, "`limit` is -2"),
        ({"offset": -1}, "`offset` is -1"),
        ({"sort_by": "colour"}, "`sort_by` is 'colour'; give one of"),
        ({"sort_order": "up"}, "`sort_order` is 'up'; give one of asc, desc"),
    ],
)
async def test_bad_arguments_are_named_by_every_query(store: LightningStore, arguments: dict[str, Any], message: str):
    calls = [store.query_rollouts, store.query_resources, store.query_workers]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            await call(**arguments)
    with pytest.raises(ValueError, match=message):
        await store.query_attempts("ro-x", **arguments)
    with pytest.raises(ValueError, match=message):
        await store.query_spans("ro-x", **arguments)


async def test_bad_sort_field_names_the_valid_ones(store: LightningStore):
    with pytest.raises(ValueError, match="attempt_id, end_time, last_heartbeat_time, metadata"):
        await store.query_attempts("ro-x", sort_by="colour")
    unknown: Any = "xor"
    with pytest.raises(ValueError, match="`filter_logic` is 'xor'; give one of and, or"):
        await store.query_rollouts(filter_logic=unknown)


async def test_every_field_of_each_model_sorts(store: LightningStore):
    rollout = await store.start_rollout("task", worker_id="w")
    await store.add_resources(LLM_RESOURCES)
    await store.start_attempt(rollout.rollout_id)
    page = await store.query_rollouts()
    for field in type(page[0]).model_fields.keys() - {"attempt"}:
        assert (await store.query_rollouts(sort_by=field)).total == 1
    for field in type((await store.query_attempts(rollout.rollout_id))[0]).model_fields:
        assert (await store.query_attempts(rollout.rollout_id, sort_by=field)).total == 2
    for field in type((await store.query_resources())[0]).model_fields:
        assert (await store.query_resources(sort_by=field)).total == 1
    for field in type((await store.query_workers())[0]).model_fields:
        assert (await store.query_workers(sort_by=field)).total == 1


async def test_attempts_of_one_rollout(store: LightningStore):
    rollout = await store.start_rollout("task")
    await store.start_attempt(rollout.rollout_id)
    await store.start_rollout("other")
    newest_first = await store.query_attempts(rollout.rollout_id, sort_order="desc", limit=1)
    assert (newest_first.total, [attempt.sequence_id for attempt in newest_first]) == (2, [2])
    assert (await store.query_attempts("ro-x")).total == 0


async def test_numbers_that_no_home_can_count_to_are_refused(store: LightningStore):
    number = 2**62
    for call in (
        lambda: store.query_rollouts(limit=number),
        lambda: store.query_rollouts(offset=number),
        lambda: store.dequeue_many_rollouts(limit=number),
    ):
        with pytest.raises(ValueError, match=r"`(limit|offset)`"):
            await call()


async def test_times_that_are_no_numbers_are_refused(local_store: LightningStore):
    rollout = await local_store.start_rollout("task")
    for call in (
        lambda: local_store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=float("nan")),
        lambda: local_store.dequeue_rollout(timeout=float("nan")),
        lambda: local_store.update_attempt(
            rollout.rollout_id, rollout.attempt.attempt_id, last_heartbeat_time=float("nan")
        ),
    ):
        with pytest.raises(ValueError, match=r"`(timeout|last_heartbeat_time)` is nan"):
            await call()


async def test_pages_at_and_beyond_the_end_know_the_total(store: LightningStore):
    await enqueue(store, 5)
    for limit, offset, inputs in ((5, 0, [0, 1, 2, 3, 4]), (2, 3, [3, 4]), (3, 3, [3, 4]), (2, 9, []), (-1, 4, [4])):
        page = await store.query_rollouts(limit=limit, offset=offset)
        assert ([rollout.input for rollout in page], page.total) == (inputs, 5)
    assert (await store.query_rollouts(status_in=["failed"], limit=3)).total == 0


async def test_more_kinds_of_queries_than_are_kept_ready(local_store: LightningStore):
    ids = await enqueue(local_store, 3)
    fields = ["rollout_id", "start_time", "status", "input", "mode", "config", "end_time", "metadata", "resources_id"]
    filters: dict[str, Any] = {"status_in": ["queuing"], "rollout_id_in": ids, "rollout_id_contains": "ro-"}
    kinds = list(product(fields, ("asc", "desc"), ("and", "or"), (-1, 2), [None, *filters]))
    for sort_by, sort_order, logic, limit, filter_ in [*kinds, *kinds[:10]]:
        given = {} if filter_ is None else {filter_: filters[filter_]}
        page = await local_store.query_rollouts(
            sort_by=sort_by, sort_order=sort_order, filter_logic=logic, limit=limit, **given
        )
        assert (len(page), page.total) == (3 if limit == -1 else 2, 3)
