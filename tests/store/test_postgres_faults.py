"""The PostgreSQL home when the database is killed, restarted, or drops its connections: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from agentlightning.store import SqlLightningStore
from agentlightning.store.ledger import Ledger
from agentlightning.types import Span, StoreUnavailableError

from ..postgres import PASSWORD, PostgresServer, postgres_server
from .cutting_proxy import CuttingProxy
from .helpers import check_answered, enqueue, span_of, start_writer

FOREVER = 60.0
DROP = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One of its own, to be killed."""
    with postgres_server() as server:
        yield server


@pytest.fixture
async def pair(server: PostgresServer) -> AsyncIterator[tuple[SqlLightningStore, SqlLightningStore]]:
    """Two servers of one database."""
    url = server.new_database()
    first, second = SqlLightningStore(url, scan_interval=0.2), SqlLightningStore(url, scan_interval=0.2)
    yield first, second
    await first.close()
    await second.close()


Pair = tuple[SqlLightningStore, SqlLightningStore]


class Work:
    """Rollouts enqueued on one server, and done on both, with all that was answered."""

    def __init__(self, pair: Pair, count: int) -> None:
        self.pair, self.count = pair, count
        self.enqueued: list[str] = []
        self.taken: list[tuple[str, str]] = []
        self.spans: list[Span] = []

    async def run(self) -> None:
        workers = [self._work(store, f"w-{i}-{n}") for i, store in enumerate(self.pair) for n in range(3)]
        done, *_ = await asyncio.gather(self._enqueue(), *workers)
        assert [rollout.status for rollout in done] == ["succeeded"] * self.count

    async def _enqueue(self):
        for _ in range(self.count // 5):
            self.enqueued += await enqueue(self.pair[0], 5)
            await asyncio.sleep(0.01)
        done = await self.pair[1].wait_for_rollouts(rollout_ids=self.enqueued)
        await enqueue(self.pair[0], 6)  # nothing to do: the workers end
        return done

    async def _work(self, store: SqlLightningStore, worker: str) -> None:
        while len(self.enqueued) < self.count or len(self.taken) < self.count:
            rollout = await store.dequeue_rollout(worker, timeout=FOREVER)
            assert rollout is not None
            if rollout.rollout_id not in self.enqueued and len(self.taken) == self.count:
                return
            self.taken.append((rollout.rollout_id, rollout.attempt.attempt_id))
            self.spans += await store.add_many_spans([span_of(rollout), span_of(rollout)])
            await store.update_attempt(*self.taken_key(rollout.rollout_id), status="succeeded")

    def taken_key(self, rollout_id: str) -> tuple[str, str]:
        return next(key for key in self.taken if key[0] == rollout_id)

    async def check(self) -> None:
        """All that was answered is there, once."""
        store = self.pair[0]
        rollouts = {each.rollout_id: each for each in await store.query_rollouts() if each.status == "succeeded"}
        assert set(rollouts) == set(self.enqueued)
        assert sorted(rollout_id for rollout_id, _ in self.taken) == sorted(self.enqueued)
        assert all(rollout.attempt.sequence_id == 1 for rollout in rollouts.values())  # type: ignore[attr-defined]
        stored = await store.query_many_spans(self.taken)
        assert all([span.sequence_id for span in spans] == [1, 2] for spans in stored.values())
        assert sorted(span.span_id for spans in stored.values() for span in spans) == sorted(
            span.span_id for span in self.spans
        )


@pytest.mark.parametrize("seed", range(3))
async def test_kill_9_of_the_database_loses_nothing_and_does_nothing_twice(
    pair: Pair, server: PostgresServer, seed: int
):
    dice = random.Random(seed)
    work = Work(pair, 150)
    working = asyncio.create_task(work.run())
    for _ in range(3):
        await asyncio.sleep(dice.random() * 0.3)
        server.kill()
        await asyncio.sleep(dice.random() * 0.2)
        server.start()
    await working
    await work.check()


@pytest.mark.parametrize("seed", range(2))
async def test_kill_9_of_a_server_loses_nothing_that_it_answered(server: PostgresServer, seed: int):
    url = server.new_database()
    writers = [start_writer(url) for _ in range(2)]
    answered: list[list[str]] = []
    for writer in writers:
        assert writer.stdout is not None
        answered += [writer.stdout.readline().split() for _ in range(random.Random(seed).randint(20, 300))]
        # The other one goes on meanwhile, with what this one leaves.
        writer.kill()
        answered += [line.split() for line in writer.stdout if line.endswith("\n")]
        writer.wait()
    store = SqlLightningStore(url)
    await check_answered(store, answered)
    taken = [line[1] for line in answered if line[0] == "taken"]
    assert len(taken) == len(set(taken))
    await store.close()


async def test_dropped_connections_lose_nothing_and_do_nothing_twice(pair: Pair, server: PostgresServer):
    work = Work(pair, 300)
    working = asyncio.create_task(work.run())
    with server.connect() as admin:
        (name,) = (await pair[0]._run(_database_name)) or ("",)  # pyright: ignore[reportPrivateUsage]
        drops = 0
        while not working.done() and drops < 40:
            drops += len(admin.execute(DROP, (name,)).fetchall())
            await asyncio.sleep(random.random() * 0.1)
    await working
    assert drops
    await work.check()


def _database_name(ledger: Ledger) -> tuple[str]:
    cursor = ledger._cursor  # type: ignore[attr-defined]
    cursor.execute("SELECT current_database()")
    return cursor.fetchall()[0]


@pytest.mark.parametrize("command", ["COMMIT", "INSERT 0 1"], ids=["after the commit", "before the commit"])
async def test_operations_whose_connection_is_cut_around_the_commit_are_done_once(server: PostgresServer, command: str):
    url = server.new_database()
    proxy = CuttingProxy(server)
    store = SqlLightningStore(proxy.url(url), scan_interval=1000)
    direct = SqlLightningStore(url, scan_interval=1000)
    waiting = asyncio.create_task(direct.dequeue_many_rollouts(limit=99, timeout=FOREVER))
    answered: list[str] = []
    for n in range(10):
        proxy.cut(command)
        answered += [rollout.rollout_id for rollout in await asyncio.gather(*(map(store.enqueue_rollout, range(4))))]
        assert proxy.cuts == n + 1
    assert sorted(rollout.rollout_id for rollout in await direct.query_rollouts()) == sorted(answered)
    taken = [*await waiting, *await direct.dequeue_many_rollouts(limit=99)]
    assert sorted(rollout.rollout_id for rollout in taken) == sorted(answered)
    await store.close()
    await direct.close()
    proxy.close()


async def test_waits_go_on_when_the_database_is_back(pair: Pair, server: PostgresServer):
    (rollout_id,) = await enqueue(pair[0], 1)
    await pair[0].dequeue_rollout()
    waits = [
        asyncio.create_task(pair[0].wait_for_rollouts(rollout_ids=[rollout_id])),
        asyncio.create_task(pair[1].dequeue_rollout(timeout=FOREVER)),
    ]
    await asyncio.sleep(0.05)
    server.kill()
    server.start()
    await pair[1].update_rollout(rollout_id, status="succeeded")
    await pair[0].enqueue_rollout("more")
    (done,), more = await asyncio.gather(*waits)
    assert (done.status, more.input) == ("succeeded", "more")


async def test_what_a_dead_listener_missed_is_looked_for(pair: Pair, server: PostgresServer):
    """The listeners lose their connections only; what happens before they are back, nobody tells them."""
    waiting = asyncio.create_task(pair[1].dequeue_rollout(timeout=FOREVER))
    await asyncio.sleep(0.05)
    with server.connect() as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    (rollout_id,) = await enqueue(pair[0], 1)
    rollout = await waiting
    assert rollout is not None
    assert rollout.rollout_id == rollout_id


async def test_operations_fail_when_the_database_stays_away_and_work_when_it_is_back(server: PostgresServer):
    store = SqlLightningStore(server.new_database(), reconnect_seconds=0.3)
    await enqueue(store, 1)
    server.kill()
    try:
        results = await asyncio.gather(store.enqueue_rollout("lost"), store.query_rollouts(), return_exceptions=True)
    finally:
        server.start()
    for result in results:
        assert isinstance(result, StoreUnavailableError)
        assert PASSWORD not in f"{result}{result.__cause__!r}"
        assert "database `store_" in str(result)
    await store.enqueue_rollout("kept")
    assert [rollout.input for rollout in await store.query_rollouts()] == [0, "kept"]
    await store.close()


async def test_closing_without_a_database_ends(server: PostgresServer):
    store = SqlLightningStore(server.new_database(), reconnect_seconds=0.3)
    server.kill()
    await store.close()
    server.start()


async def test_full_disk_reaches_the_caller_and_the_store_goes_on(server: PostgresServer):
    """A limit of the role stands for the disk: the same kind of error."""
    url = server.new_database()
    store = SqlLightningStore(url)
    rollout = await store.start_rollout("task")

    def exhaust(ledger: Ledger) -> None:
        ledger._cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$")  # type: ignore[attr-defined]

    full, fits = await asyncio.gather(
        store._run(exhaust),  # pyright: ignore[reportPrivateUsage]
        store.add_span(span_of(rollout)),
        return_exceptions=True,
    )
    assert isinstance(full, StoreUnavailableError)
    assert isinstance(full.__cause__, psycopg.errors.DiskFull)
    assert isinstance(fits, Span)
    assert (await store.query_spans(rollout.rollout_id)).total == 1
    await store.close()
