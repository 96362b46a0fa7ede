"""The PostgreSQL home: several servers on one database, its tables, and what it refuses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator

import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from agentlightning.store import LightningStore, SqlLightningStore
from agentlightning.store.ledger import Effects, Ledger
from agentlightning.store.listener import LOOK, notes
from agentlightning.store.replies import keyed
from agentlightning.types import (
    AttemptedRollout,
    EnqueueRolloutRequest,
    LeaseLostError,
    StoreUnavailableError,
)

from ..postgres import PASSWORD, PostgresServer
from .helpers import LLM_RESOURCES, enqueue, retrying, span_of, status_of, taken
from .test_state_machine import CHECKS, StoreMachine

FOREVER = 60.0


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
async def pair(url: str) -> AsyncIterator[tuple[SqlLightningStore, SqlLightningStore]]:
    """Two servers of one database."""
    first, second = SqlLightningStore(url), SqlLightningStore(url)
    yield first, second
    await first.close()
    await second.close()


Pair = tuple[SqlLightningStore, SqlLightningStore]


# -- two servers ------------------------------------------------------------------------------------------------------


async def test_everything_is_there_for_another_server(pair: Pair):
    first, second = pair
    await first.add_resources(LLM_RESOURCES)
    rollout = await first.start_rollout({"n": 1}, worker_id="w")
    await first.add_span(span_of(rollout, attributes={"big": "x" * 2_000_000}))
    assert list(await second.query_rollouts()) == list(await first.query_rollouts())
    assert list(await second.query_workers()) == list(await first.query_workers())
    assert list(await second.query_spans(rollout.rollout_id)) == list(await first.query_spans(rollout.rollout_id))
    assert await second.get_latest_resources() == await first.get_latest_resources()


async def test_every_rollout_is_dequeued_once(pair: Pair):
    ids = [rollout_id for store in pair for rollout_id in await enqueue(store, 100)]
    got: list[str] = []

    async def work(store: SqlLightningStore, worker: str) -> None:
        while len(got) < len(ids):
            for rollout in await store.dequeue_many_rollouts(limit=3, worker_id=worker):
                got.append(rollout.rollout_id)
                await store.add_span(span_of(rollout))
                await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")

    await asyncio.gather(*(work(store, f"w-{i}-{n}") for i, store in enumerate(pair) for n in range(6)))
    assert sorted(got) == sorted(ids)
    assert {rollout.status for rollout in await pair[0].query_rollouts()} == {"succeeded"}
    assert {worker.status for worker in await pair[1].query_workers()} == {"idle"}
    assert (await pair[1].statistics())["total_attempts"] == len(ids)


async def test_spans_of_one_rollout_get_a_number_each(pair: Pair):
    rollout = await pair[0].start_rollout("task")
    key = (rollout.rollout_id, rollout.attempt.attempt_id)

    async def write(store: SqlLightningStore) -> list[int]:
        numbers = list(await store.get_many_span_sequence_ids([key, key]))
        return numbers + [span.sequence_id for span in await store.add_many_spans([span_of(rollout), span_of(rollout)])]

    written = await asyncio.gather(*(write(store) for store in pair for _ in range(20)))
    assert sorted(number for numbers in written for number in numbers) == list(range(1, 161))


async def test_the_same_span_is_stored_once(pair: Pair):
    rollout = await pair[0].start_rollout("task")
    for _ in range(20):
        span = span_of(rollout)
        stored = await asyncio.gather(*(store.add_many_spans([span]) for store in pair for _ in range(3)))
        assert sum(map(len, stored)) == 1
    assert [span.sequence_id for span in await pair[0].query_spans(rollout.rollout_id)] == list(range(1, 21))


async def test_one_result_counts(pair: Pair):
    config = retrying("failed", "unresponsive", max_attempts=3)
    for _ in range(25):
        rollout = await pair[0].start_rollout("task", config=config)
        key = (rollout.rollout_id, rollout.attempt.attempt_id)
        results = await asyncio.gather(
            pair[0].update_attempt(*key, status="succeeded"),
            pair[1].update_attempt(*key, status="failed"),
            pair[1].update_rollout(rollout.rollout_id, status="cancelled"),
            pair[0].start_attempt(rollout.rollout_id),
            return_exceptions=True,
        )
        for result in results:
            assert not isinstance(result, BaseException) or isinstance(result, LeaseLostError), result
        stored = await pair[0].get_rollout_by_id(rollout.rollout_id)
        assert isinstance(stored, AttemptedRollout)
        attempts = list(await pair[1].query_attempts(rollout.rollout_id))
        assert [attempt.sequence_id for attempt in attempts] == list(range(1, len(attempts) + 1))
        assert stored.attempt == attempts[-1]
        active = [attempt for attempt in attempts if attempt.status in ("preparing", "running")]
        assert active in ([], [attempts[-1]])
        assert bool(active) == (stored.status in ("preparing", "running"))
        queued = [each.rollout_id for each in await pair[0].dequeue_many_rollouts(limit=9)]
        assert queued == ([stored.rollout_id] if stored.status == "requeuing" else [])


async def test_every_version_of_resources_counts(pair: Pair):
    first = await pair[0].add_resources(LLM_RESOURCES)
    written = await asyncio.gather(
        *(store.update_resources(first.resources_id, LLM_RESOURCES) for store in pair for _ in range(20)),
        *(store.add_resources(LLM_RESOURCES) for store in pair for _ in range(5)),
    )
    assert sorted(each.version for each in written if each.resources_id == first.resources_id) == list(range(2, 42))
    latest = [await store.get_latest_resources() for store in pair]
    assert latest[0] == latest[1]
    assert latest[0] in written


async def test_a_request_that_reaches_two_servers_is_done_once(pair: Pair):
    await enqueue(pair[0], 50)

    async def enqueue_keyed(store: SqlLightningStore, key: str) -> list[str]:
        with keyed(key):
            rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(2)])
        return [rollout.rollout_id for rollout in rollouts]

    async def dequeue_keyed(store: SqlLightningStore, key: str) -> list[str]:
        with keyed(key):
            rollouts = await store.dequeue_many_rollouts(limit=2)
        return [rollout.attempt.attempt_id for rollout in rollouts]

    for do in (enqueue_keyed, dequeue_keyed):
        for n in range(15):
            answers = await asyncio.gather(*(do(store, f"{do.__name__}-{n}") for store in pair for _ in range(2)))
            assert len(answers[0]) == 2
            assert all(answer == answers[0] for answer in answers)
    statistics = await pair[0].statistics()
    assert (statistics["total_rollouts"], statistics["total_attempts"]) == (80, 30)


async def test_both_watchdogs_end_an_attempt_once(pair: Pair):
    config = retrying("timeout", max_attempts=2, timeout_seconds=1000.0)
    await enqueue(pair[0], 30, config=config)
    await pair[0].dequeue_many_rollouts(limit=30, worker_id="w")
    late = await asyncio.gather(*(store.expire_attempts(now=1e12) for store in pair))
    assert len({each.rollout_id for each in (*late[0], *late[1])}) == len(late[0]) + len(late[1]) == 30
    again = await pair[1].dequeue_many_rollouts(limit=99)
    assert Counter(rollout.attempt.sequence_id for rollout in again) == {2: 30}


async def test_work_and_ends_are_heard_of_on_the_other_server(pair: Pair):
    first, second = pair
    waiting = asyncio.create_task(second.dequeue_rollout("w", timeout=FOREVER))
    await asyncio.sleep(0.05)
    (rollout_id,) = await enqueue(first, 1)
    rollout = await waiting
    assert rollout is not None
    assert rollout.rollout_id == rollout_id
    ends = asyncio.create_task(first.wait_for_rollouts(rollout_ids=[rollout_id]))
    await asyncio.sleep(0.05)
    await second.update_attempt(rollout_id, "latest", status="succeeded")
    assert [each.status for each in await ends] == ["succeeded"]


async def test_ends_of_many_at_once_are_heard_of(pair: Pair):
    ids = await enqueue(pair[0], 2000)
    await pair[0].dequeue_many_rollouts(limit=2000)
    waits = [asyncio.create_task(pair[1].wait_for_rollouts(rollout_ids=part)) for part in (ids[:1], ids[1000:])]
    await asyncio.sleep(0.05)
    await asyncio.gather(*(pair[0].update_rollout(rollout_id, status="cancelled") for rollout_id in ids))
    assert [len(ended) for ended in await asyncio.gather(*waits)] == [1, 1000]


def test_notes_are_as_short_as_postgresql_takes_them():
    assert notes(Effects()) == []
    assert notes(Effects(2, ["ro-1"])) == ['[0,["ro-1"]]', "[2,[]]"]
    some = notes(Effects(0, [f"ro-{i:012x}" for i in range(2000)]))
    assert 1 < len(some) <= 16
    assert max(map(len, some)) < 8000
    assert notes(Effects(1, [f"ro-{i:012x}" for i in range(20_000)])) == [LOOK]


async def test_rollout_that_somebody_let_go_again_is_found(url: str, postgres: PostgresServer):
    """A server that dies within its dequeue gives back without a word."""
    store = SqlLightningStore(url)
    ids = await enqueue(store, 2)
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM queue JOIN rollouts USING (rollout_id) WHERE rollout_id = %s FOR UPDATE", ids[:1])
        assert (await taken(store)).rollout_id == ids[1], "what is locked is passed over"
        waiting = asyncio.create_task(store.dequeue_rollout(timeout=FOREVER))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        other.rollback()
    rollout = await waiting
    assert rollout is not None
    assert rollout.rollout_id == ids[0]
    await store.close()


async def test_operations_that_want_what_the_other_has_are_both_done(pair: Pair):
    ids = await enqueue(pair[0], 2)
    meeting = threading.Barrier(2)

    def crossing(first: str, second: str):
        def operation(ledger: Ledger) -> None:
            ledger.lock_rollouts([first])
            if not met[first]:
                met[first] = True
                meeting.wait()
            (row,) = ledger.lock_rollouts([second])
            ledger.move_rollout(row._replace(last_sequence_id=row.last_sequence_id + 1))

        return operation

    met = dict.fromkeys(ids, False)
    await asyncio.gather(pair[0]._run(crossing(*ids)), pair[1]._run(crossing(*reversed(ids))))  # pyright: ignore[reportPrivateUsage]
    rows = await pair[0]._run(lambda ledger: ledger.rollouts(ids))  # pyright: ignore[reportPrivateUsage]
    assert [row.last_sequence_id for row in rows] == [1, 1]


@pytest.mark.slow
async def test_server_that_stands_still_holds_others_up_for_ten_seconds_only(pair: Pair):
    (rollout_id,) = await enqueue(pair[0], 1)
    started, release = threading.Event(), threading.Event()
    runs: list[int] = []

    def stand_still(ledger: Ledger) -> None:
        (row,) = ledger.lock_rollouts([rollout_id])
        runs.append(row.last_sequence_id)
        started.set()
        release.wait()
        ledger.move_rollout(row._replace(last_sequence_id=row.last_sequence_id + 1))

    standing = asyncio.create_task(pair[0]._run(stand_still))  # pyright: ignore[reportPrivateUsage]
    await asyncio.to_thread(started.wait)
    await pair[1].update_rollout(rollout_id, metadata={"by": "the other"})
    release.set()
    await standing
    assert runs == [0, 0], "it ran again, since its transaction was taken from it"
    rollout = await pair[1].get_rollout_by_id(rollout_id)
    assert rollout is not None
    assert rollout.metadata == {"by": "the other"}


def test_state_machine(postgres: PostgresServer):
    class Machine(StoreMachine):
        def open(self) -> LightningStore:
            return SqlLightningStore(postgres.new_schema())

    few = settings(max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(Machine, settings=few)


# -- one server -------------------------------------------------------------------------------------------------------


async def test_one_failing_operation_of_a_group_fails_alone(url: str):
    def refuse(ledger: Ledger) -> None:
        ledger.take_queued(1)
        raise KeyError("mine")

    def break_a_rule(ledger: Ledger) -> None:
        ledger.enqueue([ids[1]])

    store = SqlLightningStore(url)
    ids = await enqueue(store, 2)
    results = await asyncio.gather(
        store.enqueue_rollout("before"),
        store._run(refuse),  # pyright: ignore[reportPrivateUsage]
        store._run(break_a_rule),  # pyright: ignore[reportPrivateUsage]
        store.update_worker("a\0b"),
        store.update_attempt(ids[0], "latest", status="failed"),
        store.enqueue_rollout("after"),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == [
        "Rollout",
        "KeyError",
        "StoreUnavailableError",
        "ValueError",
        "NotFoundError",
        "Rollout",
    ]
    assert "NUL" in str(results[3])
    rollouts = await store.dequeue_many_rollouts(limit=9)
    assert [rollout.input for rollout in rollouts] == [0, 1, "before", "after"]
    await store.close()


async def test_text_is_ordered_as_on_other_homes_whatever_the_locale(url: str):
    store = SqlLightningStore(url)
    workers = ["b", "a", "B", "_", "é", "Z", "a-b", "ab"]
    for worker in workers:
        await store.update_worker(worker)
    found = await store.query_workers(sort_by="worker_id")
    assert [worker.worker_id for worker in found] == sorted(workers)
    with psycopg.connect(url) as connection:
        byte_order = connection.execute("SELECT 'B' < 'a'").fetchone()
    assert byte_order == (False,), "the locale of the database is one that would show it"
    await store.close()


async def test_times_are_the_database_s(url: str, postgres: PostgresServer):
    with postgres.connect(url.rsplit("/", 1)[1]) as admin:
        # A database whose clock is a year ahead.
        admin.execute("CREATE SCHEMA ahead")
        admin.execute(
            "CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
            "$$ SELECT pg_catalog.clock_timestamp() + interval '365 days' $$"
        )
        (now,) = admin.execute("SELECT extract(epoch FROM now())::float8").fetchone() or (0.0,)
    store = SqlLightningStore(url + "?options=-csearch_path%3Dahead,pg_catalog")
    rollout = await store.start_rollout("task")
    assert 364 * 86400 < rollout.start_time - now < 366 * 86400
    await store.close()


async def test_servers_that_open_an_empty_database_at_once_make_one_store(url: str):
    stores = await asyncio.gather(*(asyncio.to_thread(SqlLightningStore, url) for _ in range(6)))
    await asyncio.gather(*(store.enqueue_rollout("task") for store in stores))
    assert (await stores[0].query_rollouts()).total == 6
    await asyncio.gather(*(store.close() for store in stores))


async def test_schemas_are_stores_of_their_own(url: str):
    with psycopg.connect(url) as connection:
        connection.execute("CREATE SCHEMA one")
        connection.execute("CREATE SCHEMA two")
    stores = [SqlLightningStore(f"{url}?options=-csearch_path%3D{schema}") for schema in ("one", "two")]
    await stores[0].enqueue_rollout("task")
    assert [(await store.query_rollouts()).total for store in stores] == [1, 0]
    for store in stores:
        await store.close()
    with pytest.raises(ValueError, match="has no schema of the `search_path`"):
        SqlLightningStore(f"{url}?options=-csearch_path%3Dthree")


async def test_other_tables_and_versions_are_refused_and_not_touched(url: str):
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE queue (job text)")
    with pytest.raises(ValueError, match=r'has a table that is not a store\'s .*"queue" already exists'):
        SqlLightningStore(url)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall() == [
            ("queue",)
        ]
        connection.execute("DROP TABLE queue")
    await SqlLightningStore(url).close()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE store_info SET value = '99' WHERE name = 'schema_version'")
    with pytest.raises(ValueError, match="schema version 99, this release reads 2"):
        SqlLightningStore(url)


def test_what_can_not_be_opened_is_said_without_the_password(url: str, postgres: PostgresServer):
    secret = "hidden-value"
    refused = [
        (url.replace(PASSWORD, secret), "password authentication failed"),
        (f"{url}x", "does not exist"),
        (url.replace(f":{postgres.port}", ":1"), "refused"),
        (f"{url}?sslmode=require&password={secret}", "SSL"),
    ]
    for wrong, message in refused:
        with pytest.raises(StoreUnavailableError, match=message) as raised:
            SqlLightningStore(wrong)
        texts = (str(raised.value), repr(raised.value.__cause__))
        assert not any(secret in text or PASSWORD in text for text in texts)


def test_unknown_options_and_missing_rights_are_named(url: str, postgres: PostgresServer):
    with pytest.raises(ValueError, match='can\'t be used as a store: invalid connection option "colour"'):
        SqlLightningStore(f"{url}?colour=blue")
    with postgres.connect() as admin:
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    with pytest.raises(ValueError, match="can't be used as a store: permission denied for schema public"):
        SqlLightningStore(url.replace(f"agl:{PASSWORD}", "guest:guest"))


def test_nothing_is_left_open_by_what_can_not_be_opened(url: str):
    with pytest.raises(ValueError, match="has no schema"):
        SqlLightningStore(f"{url}?options=-csearch_path%3Dthree")
    with psycopg.connect(url, autocommit=True) as connection:  # within one transaction the view stays as it was
        count = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        for _ in range(200):
            if connection.execute(count).fetchone() == (0,):
                return
            connection.execute("SELECT pg_sleep(0.05)")
    pytest.fail("a connection is still open after ten seconds")


def test_import_of_the_sql_home_does_not_import_psycopg():
    code = "import sys, agentlightning.store.sql; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_retention_keeps_the_newest(url: str):
    store = SqlLightningStore(url)
    ids = await enqueue(store, 6)
    for _ in range(4):
        rollout = await taken(store)
        await store.add_span(span_of(rollout))
        await store.update_rollout(rollout.rollout_id, status="cancelled")
    assert await store.trim(2) == 2
    kept = [rollout.rollout_id for rollout in await store.query_rollouts()]
    assert kept == ids[2:]
    assert (await store.statistics())["total_spans"] == 2
    assert await status_of(store, ids[4]) == "queuing"
    await store.close()


async def test_no_more_are_taken_than_asked_for_whatever_the_planner_does(postgres: PostgresServer):
    """For tables that it has counted while they held one row, it runs a subquery once for each row."""
    url = postgres.new_schema()
    store = SqlLightningStore(url)
    for count in (1, 2, 3, 5, 30):
        await enqueue(store, count)
        assert [len(await store.dequeue_many_rollouts(limit=1)) for _ in range(count)] == [1] * count
        await enqueue(store, 1)
        with psycopg.connect(url, autocommit=True) as connection:  # as the autovacuum does some time
            connection.execute("ANALYZE")
        await taken(store)
    await store.close()
