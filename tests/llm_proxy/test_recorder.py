"""The recorder over real stores: in memory, in SQLite, behind HTTP; at hand, slow, gone and back."""

from __future__ import annotations

import asyncio
import logging
import socket
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from agentlightning.llm_proxy import LLMProxy
from agentlightning.llm_proxy import recorder as recorder_module
from agentlightning.llm_proxy.attempts import call_seed
from agentlightning.llm_proxy.recorder import Recorder
from agentlightning.llm_proxy.spool import FILE
from agentlightning.semconv import LLM_CALL_NUMBER, LLM_CALL_SPAN
from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreServer, SqlLightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.types import (
    AttemptedRollout,
    ConfigError,
    LeaseLostError,
    NotFoundError,
    RequestError,
    Span,
    StoreClosedError,
    StoreUnavailableError,
)

from ..store.helpers import Hold, span_of, token_call
from .conftest import QUESTION, LocalBackend, client_for

GUARD_S = 60.0
"""Against hangs."""
AT_ONCE, NEVER = 0.02, 1e6


class Counting(SqlLightningStore):
    """SQLite, with a note of each write of spans. `answers` of false loses the answer of that write."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes: list[int] = []
        self.written = asyncio.Event()
        """Set when one begins."""
        self.answers: list[bool] = []

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        self.writes.append(len(spans))
        self.written.set()
        stored = await super().add_many_spans(spans)
        if self.answers and not self.answers.pop(0):
            raise StoreUnavailableError("the answer was lost")
        return stored

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Nothing is written within this."""
        hold = Hold()
        task = asyncio.create_task(self._run(hold))
        await asyncio.to_thread(hold.started.wait)
        yield
        hold.release.set()
        await task


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Counting]:
    home = Counting(tmp_path / "store.sqlite")
    yield home
    await home.close()


class Remote:
    """A store behind HTTP, whose server comes and goes."""

    def __init__(self) -> None:
        self.home = InMemoryLightningStore()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.server: LightningStoreServer | None = None
        self.client = LightningStoreClient(f"http://127.0.0.1:{self.port}", retry_delays=(0.01, 0.02))

    async def up(self) -> None:
        self.server = LightningStoreServer(self.home, port=self.port)
        await self.server.start()

    async def down(self) -> None:
        if self.server is not None:
            await self.server.stop()
            self.server = None


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    world = Remote()
    await world.up()
    yield world
    await world.client.close()
    await world.down()
    await world.home.close()


@pytest.fixture(params=["memory", "sqlite", "http"])
def store(request: pytest.FixtureRequest) -> LightningStore:
    if request.param == "memory":
        return InMemoryLightningStore()
    found = request.getfixturevalue("remote" if request.param == "http" else "sqlite")
    return found.client if request.param == "http" else found


@asynccontextmanager
async def recording(store: LightningStore, folder: Path | None = None, **options: float) -> AsyncIterator[Recorder]:
    recorder = Recorder(store, folder, **options)
    try:
        yield recorder
    finally:
        await recorder.close()


async def names(store: LightningStore, rollout: AttemptedRollout) -> list[str]:
    """Of the spans of a rollout, in order; their numbers have no gap, so that none was written twice."""
    spans = list(await store.query_spans(rollout.rollout_id))
    assert [span.sequence_id for span in spans] == list(range(1, len(spans) + 1))
    return [span.name for span in spans]


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def settle(recorder: Recorder, *rollouts: AttemptedRollout) -> None:
    for rollout in rollouts:
        await recorder.settled(rollout.rollout_id, rollout.attempt.attempt_id, timeout=GUARD_S)


# -- a store that is there ------------------------------------------------------------------------------------------


async def test_a_recorded_call_is_in_the_store(store: LightningStore, tmp_path: Path):
    rollout = await store.start_rollout("task")
    async with recording(store, tmp_path / "spool") as recorder:
        first, second = span_of(rollout, "a"), span_of(rollout, "b")
        first.token_call = token_call()
        await recorder.record([first, second])
        assert await names(store, rollout) == ["a", "b"]
        await recorder.record([span_of(rollout, "c")])
        assert await names(store, rollout) == ["a", "b", "c"]
        await settle(recorder, rollout)
        await recorder.record([])
    (stored,) = await store.query_spans(rollout.rollout_id, name="a")
    assert stored.token_call is not None
    assert stored.token_call.to_bytes() == token_call().to_bytes()
    counts = recorder.counts
    assert (counts.recorded, counts.spooled, counts.delivered, counts.dropped) == (3, 0, 0, 0)


async def test_calls_that_come_during_a_write_go_together(sqlite: Counting):
    rollouts = [await sqlite.start_rollout(number) for number in range(5)]
    async with recording(sqlite, spool_after=NEVER) as recorder:
        async with sqlite.held():
            calls = [asyncio.create_task(recorder.record([span_of(rollout)])) for rollout in rollouts]
            await sqlite.written.wait()
            calls += [asyncio.create_task(recorder.record([span_of(rollout, "more")] * 2)) for rollout in rollouts]
            await asyncio.sleep(0)
            assert not any(call.done() for call in calls)
        await asyncio.gather(*calls)
        assert sqlite.writes == [5, 10]


async def test_a_caller_that_goes_away_leaves_its_spans(sqlite: Counting):
    rollout = await sqlite.start_rollout("task")
    async with recording(sqlite, spool_after=NEVER) as recorder:
        async with sqlite.held():
            calls = [asyncio.create_task(recorder.record([span_of(rollout, name)])) for name in "ab"]
            await sqlite.written.wait()
            calls.append(asyncio.create_task(recorder.record([span_of(rollout, "c")])))
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
        await settle(recorder, rollout)
        assert await names(sqlite, rollout) == ["a", "b", "c"]


async def test_each_caller_gets_its_own_error_and_the_others_are_written(store: LightningStore):
    """A write is stored as a whole or not at all; here it holds spans that can't be stored."""
    good = [await store.start_rollout(number) for number in range(4)]
    lost = [await store.start_rollout("superseded") for _ in range(2)]
    for rollout in lost:
        await store.start_attempt(rollout.rollout_id)
    stranger = Span.create("x", rollout_id="ro-none", attempt_id="at-none")
    lacking = await store.start_rollout("one of its calls can't be stored")
    unfit = span_of(lacking, "unfit")
    unfit.attributes["x"] = object()  # type: ignore[assignment]
    calls = [good[0], lost[0], good[1], stranger, good[2], unfit, lost[1], good[3]]
    async with recording(store) as recorder:
        spans = [call if isinstance(call, Span) else span_of(call) for call in calls]
        results = await asyncio.gather(*(recorder.record([span]) for span in spans), return_exceptions=True)
        assert [type(result) for result in results] == [
            *(type(None), LeaseLostError, type(None), NotFoundError),
            *(type(None), TypeError, LeaseLostError, type(None)),
        ]
        for rollout, error in ((lost[0], results[1]), (lost[1], results[6])):
            assert isinstance(error, LeaseLostError)
            assert error.attempts == [(rollout.rollout_id, rollout.attempt.attempt_id)]
            assert rollout.attempt.attempt_id in str(error)
        await settle(recorder, *good, *lost)
        with pytest.raises(RequestError, match="could not be recorded"):
            await settle(recorder, lacking)
        assert recorder.counts.recorded == 4
    for rollout in good:
        assert await names(store, rollout) == ["work"]


async def test_all_calls_of_one_lost_attempt_are_refused(store: LightningStore):
    rollout = await store.start_rollout("task")
    await store.start_attempt(rollout.rollout_id)
    async with recording(store) as recorder:
        calls = [recorder.record([span_of(rollout)]) for _ in range(3)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, LeaseLostError)


async def test_a_closed_store_is_said_and_nothing_is_spooled(sqlite: Counting, tmp_path: Path):
    rollout = await sqlite.start_rollout("task")
    async with recording(sqlite, tmp_path / "spool") as recorder:
        await sqlite.close()
        calls = [recorder.record([span_of(rollout)]) for _ in range(3)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, StoreClosedError)
        assert recorder.counts.spooled == 0


# -- a store that is not --------------------------------------------------------------------------------------------


async def test_a_slow_write_goes_on_while_its_callers_do(sqlite: Counting, tmp_path: Path):
    rollout = await sqlite.start_rollout("task")
    async with recording(sqlite, tmp_path / "spool", spool_after=AT_ONCE) as recorder:
        async with sqlite.held():
            await asyncio.gather(*(recorder.record([span_of(rollout, name)]) for name in "abc"))
            for name in "def":
                await recorder.record([span_of(rollout, name)])
            await _waits(recorder, rollout)
            assert recorder.counts.spooled == recorder.counts.recorded == 6
        await settle(recorder, rollout)
        assert await names(sqlite, rollout) == list("abcdef")
        assert sqlite.writes == [3, 3], "what was under way was not written again"
        await recorder.record([span_of(rollout, "g")])
        assert recorder.counts.spooled == 6, "the store is used directly again"
        assert recorder.counts.delivered == 6
    assert await names(sqlite, rollout) == list("abcdefg")


async def _waits(recorder: Recorder, rollout: AttemptedRollout) -> None:
    with pytest.raises(TimeoutError, match=r"calls of attempt `at-.*` still wait for the store"):
        await recorder.settled(rollout.rollout_id, rollout.attempt.attempt_id, timeout=0.01)


async def test_a_server_that_is_gone_and_comes_back(remote: Remote, tmp_path: Path):
    rollouts = [await remote.home.start_rollout(number) for number in range(3)]
    async with recording(remote.client, tmp_path / "spool") as recorder:
        await recorder.record([span_of(rollouts[0], "before")])
        await remote.down()
        for number in range(200):
            await recorder.record([span_of(rollouts[number % 3], str(number))])
        await _waits(recorder, rollouts[1])
        await remote.up()
        await settle(recorder, *rollouts)
        await recorder.record([span_of(rollouts[0], "after")])
        assert (recorder.counts.spooled, recorder.counts.delivered, recorder.counts.dropped) == (200, 200, 0)
    expected = [[str(number) for number in range(200) if number % 3 == each] for each in range(3)]
    expected[0] = ["before", *expected[0], "after"]
    assert [await names(remote.home, rollout) for rollout in rollouts] == expected
    assert _inside(tmp_path / "spool") == [tmp_path / "spool" / FILE]


async def test_a_write_whose_answer_was_lost_is_not_stored_twice(sqlite: Counting, tmp_path: Path):
    """The store has the spans; the recorder can't know, and writes them again."""
    rollout = await sqlite.start_rollout("task")
    async with recording(sqlite, tmp_path / "spool") as recorder:
        sqlite.answers = [False, False, False]
        await asyncio.gather(*(recorder.record([span_of(rollout, name)]) for name in "abc"))
        await recorder.record([span_of(rollout, "d")])
        await settle(recorder, rollout)
    assert await names(sqlite, rollout) == list("abcd")
    assert sum(sqlite.writes) > 4
    assert recorder.counts.delivered == 4


async def test_every_home_takes_a_span_once(store: LightningStore):
    """What the recorder relies on."""
    rollout = await store.start_rollout("task")
    first, second = span_of(rollout, "a"), span_of(rollout, "b")
    await store.add_many_spans([first])
    await store.add_many_spans([first, second])
    await store.add_many_spans([second, first])
    await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
    assert list(await store.add_many_spans([first, second])) == []
    assert await names(store, rollout) == ["a", "b"]


async def test_attempts_that_ended_meanwhile_are_dropped_and_counted(
    remote: Remote, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    lost, good = [await remote.home.start_rollout(number) for number in range(2)]
    async with recording(remote.client, tmp_path / "spool") as recorder:
        await remote.down()
        stranger = Span.create("x", rollout_id="ro-none", attempt_id="at-none")
        for span in (span_of(lost), span_of(good, "a"), stranger, span_of(lost), span_of(good, "b")):
            await recorder.record([span])
        await remote.home.start_attempt(lost.rollout_id)
        await remote.up()
        await settle(recorder, lost, good)
        await recorder.settled("ro-none", "at-none", timeout=GUARD_S)
        counts = recorder.counts
        assert (counts.spooled, counts.delivered, counts.dropped) == (5, 2, 3)
        with pytest.raises(LeaseLostError):
            await recorder.record([span_of(lost)])
    assert await names(remote.home, good) == ["a", "b"]
    assert await names(remote.home, lost) == []
    assert f"dropped a call of attempt {lost.attempt.attempt_id}, which no longer counts" in caplog.text


async def test_a_span_that_no_store_takes_is_refused_before_it_is_spooled(remote: Remote, tmp_path: Path):
    rollout = await remote.home.start_rollout("task")
    unfit, numbered = span_of(rollout), span_of(rollout, sequence_id=-1)
    unfit.attributes["x"] = object()  # type: ignore[assignment]
    async with recording(remote.client, tmp_path / "spool") as recorder:
        await remote.down()
        await recorder.record([span_of(rollout, "a")])
        with pytest.raises(TypeError, match=r"`attributes.x` is a object"):
            await recorder.record([unfit])
        with pytest.raises(ValueError, match="`sequence_id` of a span is -1"):
            await recorder.record([numbered])
        await remote.up()
        with pytest.raises(RequestError, match="could not be recorded, so the store lacks it: `sequence_id`"):
            await settle(recorder, rollout)
    assert await names(remote.home, rollout) == ["a"]


async def test_an_answered_call_that_the_store_refuses_is_never_forgotten(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Such an attempt can't be complete: `settled` says so, instead of letting it succeed."""
    monkeypatch.setattr(recorder_module, "CLOSE_S", 0.2)
    (bad, good) = [await remote.home.start_rollout(number) for number in range(2)]
    async with recording(remote.client, tmp_path / "spool") as recorder:
        await remote.down()
        await recorder.record([span_of(bad, "a")])
        await recorder.record([span_of(good, "a")])
    with closing(sqlite3.connect(tmp_path / "spool" / FILE)) as db, db:
        db.execute("UPDATE calls SET spans = '[{]' WHERE number = 1")
    await remote.up()
    async with recording(remote.client, tmp_path / "spool") as recorder:
        await settle(recorder, good)
        with pytest.raises(RequestError, match="call 1 in the spool can't be read") as caught:
            await settle(recorder, bad)
        assert caught.value.status == 422
    assert await names(remote.home, good) == ["a"]


async def test_a_failure_that_is_no_refusal_keeps_spooled_calls(remote: Remote, tmp_path: Path):
    """A token that the server does not take any more is a `ConfigError`, which is a `ValueError`."""
    rollout = await remote.home.start_rollout("task")
    async with recording(remote.client, tmp_path / "spool") as recorder:
        await remote.down()
        await recorder.record([span_of(rollout, "a")])
        remote.server = LightningStoreServer(remote.home, port=remote.port, token="another")
        await remote.server.start()
        client = LightningStoreClient(f"http://127.0.0.1:{remote.port}")
        with pytest.raises(ConfigError):
            await client.query_rollouts()
        await client.close()
        await recorder.record([span_of(rollout, "b")])
        await _waits(recorder, rollout)
        await remote.down()
        await remote.up()
        await settle(recorder, rollout)
    assert await names(remote.home, rollout) == ["a", "b"]
    assert recorder.counts.dropped == 0


# -- the end, and a new beginning -----------------------------------------------------------------------------------


async def test_what_was_not_delivered_is_delivered_by_the_next_gateway(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(recorder_module, "CLOSE_S", 0.2)
    rollout = await remote.home.start_rollout("task")
    await remote.down()
    async with recording(remote.client, tmp_path / "spool") as recorder:
        for name in "abc":
            await recorder.record([span_of(rollout, name)])
    assert "3 calls were not delivered and stay in" in caplog.text
    with pytest.raises(StoreClosedError, match="the gateway has stopped"):
        await recorder.record([span_of(rollout)])
    async with recording(remote.client, tmp_path / "spool") as recorder:
        await recorder.record([span_of(rollout, "d")])
        await _waits(recorder, rollout)
        await remote.up()
        await settle(recorder, rollout)
        assert await names(remote.home, rollout) == list("abcd")


async def test_a_new_gateway_delivers_without_being_asked(remote: Remote, tmp_path: Path):
    rollout = await remote.home.start_rollout("task")
    await remote.down()
    async with recording(remote.client, tmp_path / "spool") as recorder:
        await recorder.record([span_of(rollout, "a")])
        recorder._worker.cancel()  # type: ignore[union-attr]  # so that closing does not deliver
        recorder._pending.clear()
    await remote.up()
    async with recording(remote.client, tmp_path / "spool") as recorder:
        recorder.start()
        while not await names(remote.home, rollout):  # noqa: ASYNC110  # it sets no event
            await asyncio.sleep(0.01)


async def test_closing_writes_what_waits(sqlite: Counting, tmp_path: Path):
    rollout = await sqlite.start_rollout("task")
    recorder = Recorder(sqlite, tmp_path / "spool", spool_after=AT_ONCE)
    async with sqlite.held():
        for name in "abc":
            await recorder.record([span_of(rollout, name)])
        closing_ = asyncio.create_task(recorder.close())
        await asyncio.sleep(0)
    await closing_
    await recorder.close()
    assert await names(sqlite, rollout) == list("abc")


async def test_closing_does_not_wait_for_ever(sqlite: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calls whose write is under way then go to the spool; their callers are told so."""
    monkeypatch.setattr(recorder_module, "CLOSE_S", 0.1)
    rollout = await sqlite.start_rollout("task")
    recorder = Recorder(sqlite, tmp_path / "spool", spool_after=NEVER)
    async with sqlite.held():
        calls = [asyncio.create_task(recorder.record([span_of(rollout, name)])) for name in "ab"]
        await sqlite.written.wait()
        calls.append(asyncio.create_task(recorder.record([span_of(rollout, "c")])))
        await asyncio.sleep(0)
        await recorder.close()
        await asyncio.gather(*calls)
    async with recording(sqlite, tmp_path / "spool") as recorder:
        await settle(recorder, rollout)
    assert await names(sqlite, rollout) == list("abc")


async def test_two_gateways_can_not_share_a_directory(sqlite: Counting, tmp_path: Path):
    async with recording(sqlite, tmp_path):
        with pytest.raises(ConfigError, match="in use by another gateway"):
            Recorder(sqlite, tmp_path)


async def test_since_when_all_calls_are_here(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Since the spool was made, or since a gateway of this process began that had no spool and left nothing."""
    monkeypatch.setattr(recorder_module, "CLOSE_S", 0.2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with recording(remote.client, tmp_path / "spool") as first:
        pass
    async with recording(remote.client, tmp_path / "spool") as second:
        assert second.since == first.since
    async with recording(remote.client) as first:
        assert first.since > second.since
    rollout = await remote.home.start_rollout("task")
    second = Recorder(remote.client, earlier=first)
    assert second.since == first.since
    assert Recorder(remote.home, earlier=first).since > first.since, "another store"
    await remote.down()
    await second.record([span_of(rollout)])
    await second.close()
    assert Recorder(remote.client, earlier=second).since > first.since, "what waits is in a spool that is not read"


async def test_without_a_directory_one_is_made_when_it_is_needed(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rollout = await remote.home.start_rollout("task")
    async with recording(remote.client) as recorder:
        await recorder.record([span_of(rollout, "a")])
        assert _inside(tmp_path) == []
        await remote.down()
        await recorder.record([span_of(rollout, "b")])
        (made,) = _inside(tmp_path)
        assert made.stat().st_mode & 0o077 == 0
        await remote.up()
        await settle(recorder, rollout)
    assert _inside(tmp_path) == []
    assert await names(remote.home, rollout) == ["a", "b"]


# -- limits ---------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_the_callers_error_until_the_store_is_back(remote: Remote, tmp_path: Path):
    rollout = await remote.home.start_rollout("task")
    async with recording(remote.client, tmp_path) as recorder:
        assert recorder._spool is not None  # pyright: ignore[reportPrivateUsage]
        recorder._spool._db.execute("PRAGMA max_page_count=20")  # pyright: ignore[reportPrivateUsage]
        await remote.down()
        large = span_of(rollout, "large", attributes={"text": "x" * 10**6})
        with pytest.raises(StoreUnavailableError):
            await recorder.record([large])  # that the store is away is found out with this one
        await recorder.record([span_of(rollout, "small")])
        with pytest.raises(sqlite3.OperationalError, match="full"):
            await recorder.record([large])
        await remote.up()
        with pytest.raises(
            RequestError, match="could not be recorded, so the store lacks it: database or disk is full"
        ):
            await settle(recorder, rollout)
        await recorder.record([large])
    assert await names(remote.home, rollout) == ["small", "large"]


async def test_on_a_full_disk_a_write_under_way_may_still_succeed(sqlite: Counting, tmp_path: Path):
    rollout, other = await sqlite.start_rollout("task"), await sqlite.start_rollout("another")
    large = {"text": "x" * 10**6}
    async with recording(sqlite, tmp_path / "spool", spool_after=AT_ONCE) as recorder:
        assert recorder._spool is not None  # pyright: ignore[reportPrivateUsage]
        recorder._spool._db.execute("PRAGMA max_page_count=20")  # pyright: ignore[reportPrivateUsage]
        async with sqlite.held():
            call = asyncio.create_task(recorder.record([span_of(rollout, "large", attributes=large)]))
            while not recorder._spooling:  # noqa: ASYNC110  # pyright: ignore[reportPrivateUsage]
                await asyncio.sleep(0.01)
            with pytest.raises(sqlite3.OperationalError, match="full"):
                await recorder.record([span_of(other, "refused", attributes=large)])
            assert not call.done()
        await call
        await settle(recorder, rollout)
    assert await names(sqlite, rollout) == ["large"]
    assert (recorder.counts.recorded, recorder.counts.spooled) == (1, 0)


async def test_what_is_spooled_is_not_kept_in_memory(remote: Remote, tmp_path: Path):
    rollout = await remote.home.start_rollout("task")
    async with recording(remote.client, tmp_path) as recorder:
        await remote.down()
        await recorder.record([span_of(rollout)])
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(200):
            await recorder.record([span_of(rollout, attributes={"text": f"{number}" + "x" * 100_000})])
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        await remote.up()
        await settle(recorder, rollout)
    assert grown < 8 * 2**20, f"{grown} bytes for 20 MB of spans"
    assert len(await names(remote.home, rollout)) == 201


# -- in a gateway ---------------------------------------------------------------------------------------------------


class Reluctant(InMemoryLightningStore):
    """Answers questions at once, takes spans when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        await self.may.wait()
        return await super().add_many_spans(spans)


async def test_numbers_of_calls_go_on_from_those_in_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An earlier gateway's calls count before the store has them: the numbers give the seeds."""
    monkeypatch.setattr(recorder_module, "CLOSE_S", 0.1)
    store = Reluctant()
    rollout = await store.start_rollout("task", mode="train", metadata={"seed": 11})
    async with recording(store, tmp_path / "spool", spool_after=AT_ONCE) as recorder:
        for number in (1, 2):
            await recorder.record([span_of(rollout, LLM_CALL_SPAN, attributes={LLM_CALL_NUMBER: number})])
    store.may = asyncio.Event()  # of the gateway's loop
    backend = LocalBackend()
    proxy = LLMProxy(store=store, spool_dir=tmp_path / "spool")
    proxy.set_backend("tiny", backend)
    await proxy.start()
    async with client_for(proxy, rollout) as client:
        call = asyncio.create_task(client.chat.completions.create(model="tiny", messages=QUESTION))  # type: ignore[arg-type]
        await asyncio.wait({call}, timeout=0.3)
        proxy._server.call_in_loop(store.may.set)  # pyright: ignore[reportPrivateUsage]
        await call
    await proxy.stop()
    spans = await store.query_spans(rollout.rollout_id)
    assert [span.attributes[LLM_CALL_NUMBER] for span in spans] == [1, 2, 3]
    assert backend.bodies[0]["seed"] == call_seed(11, 3)
