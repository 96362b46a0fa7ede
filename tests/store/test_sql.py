"""The SQLite home as a file: durability, one owner, groups, full and locked disks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite as sqlite_dialect

from agentlightning.store import LightningStore, SqlLightningStore
from agentlightning.store.ledger import Ledger
from agentlightning.store.rows import AttemptRow, ResourcesRow, RolloutRow, SpanRow, WorkerRow
from agentlightning.store.schema import metadata
from agentlightning.store.sql_ledger import SqlLedger
from agentlightning.store.sqlite_file import SqliteFile
from agentlightning.store.statements import Statement, Statements, row_columns
from agentlightning.types import AttemptedRollout, StoreInUseError, StoreUnavailableError

from .helpers import (
    LLM_RESOURCES,
    Hold,
    check_answered,
    enqueue,
    span_of,
    start_writer,
    status_of,
    taken,
    token_call,
)

VERSION_1 = Path(__file__).with_name("version_1.sql")
MEND = "try again when that is mended"


async def test_everything_is_there_after_reopening(tmp_path: Path):
    path = tmp_path / "store.sqlite"
    first = SqlLightningStore(path)
    await first.add_resources(LLM_RESOURCES)
    ids = await enqueue(first, 3)
    rollout = await taken(first, "w")
    span = span_of(rollout)
    span.token_call = token_call()
    await first.add_many_spans([span, span_of(rollout)])
    before = await everything(first)
    await first.close()

    second = SqlLightningStore(f"sqlite:///{path}")
    assert await everything(second) == before
    assert (await taken(second)).rollout_id == ids[1]
    assert await second.get_next_span_sequence_id(rollout.rollout_id, rollout.attempt.attempt_id) == 3
    await second.close()


async def everything(store: LightningStore) -> list[Any]:
    rollouts = await store.query_rollouts()
    spans = [[span.model_dump_json() for span in await store.query_spans(each.rollout_id)] for each in rollouts]
    return [list(rollouts), spans, list(await store.query_workers()), list(await store.query_resources())]


@pytest.mark.parametrize("seed", range(4))
async def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path, seed: int):
    path = tmp_path / "store.sqlite"
    writer = start_writer(str(path))
    assert writer.stdout is not None
    answered = [writer.stdout.readline().split() for _ in range(random.Random(seed).randint(20, 400))]
    writer.send_signal(signal.SIGKILL)
    answered += [line.split() for line in writer.stdout if line.endswith("\n")]
    writer.wait()

    store = SqlLightningStore(path)
    await check_answered(store, answered)
    statuses = [rollout.status for rollout in await store.query_rollouts()]
    assert (await store.statistics()).get("queued_rollouts") == statuses.count("queuing")
    await store.close()


async def test_file_in_use_is_refused_until_its_process_is_gone(tmp_path: Path):
    path = tmp_path / "store.sqlite"
    writer = start_writer(str(path))
    assert writer.stdout is not None
    writer.stdout.readline()
    with pytest.raises(RuntimeError, match=rf"`{path}` is in use by process {writer.pid}; end that process"):
        SqlLightningStore(path)
    writer.kill()
    writer.wait()
    store = SqlLightningStore(path)
    with pytest.raises(RuntimeError, match="in use by this process"):
        SqlLightningStore(path)
    await store.close()
    await SqlLightningStore(path).close()


async def test_other_programs_may_read_the_file_meanwhile(sqlite: SqlLightningStore):
    await enqueue(sqlite, 2)
    reader = sqlite3.connect(f"file:{sqlite.path}?mode=ro", uri=True)
    assert reader.execute("SELECT count(*) FROM rollouts").fetchone() == (2,)
    reader.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (":memory:", "names no file; give a path, or use `InMemoryLightningStore`"),
        ("sqlite://", "names no file"),
        ("mysql://user:secret@host/db", "names the database 'mysql'; give a path, `sqlite:///<path>` or `postgresql"),
        ("postgresql://user:se@cret@host/db", "has an `@` in its password; write it as `%40`"),
        ("postgresql://user:secret@host:port/db", "no database URL"),
        ("not a url://", "no database URL"),
    ],
)
def test_what_is_no_database_is_refused(given: str, message: str):
    with pytest.raises(ValueError, match=message) as raised:
        SqlLightningStore(given)
    assert "cret" not in str(raised.value)
    assert raised.value.__cause__ is None


async def test_bad_files_are_refused_and_not_touched(tmp_path: Path):
    text = tmp_path / "notes.txt"
    text.write_text("no database " * 100)
    with pytest.raises(ValueError, match=rf"`{text}` is no SQLite database"):
        SqlLightningStore(text)
    assert text.read_text() == "no database " * 100
    with pytest.raises(FileNotFoundError, match=r"`.*/nowhere` doesn't exist; make it"):
        SqlLightningStore(tmp_path / "nowhere" / "store.sqlite")

    path = tmp_path / "store.sqlite"
    await SqlLightningStore(path).close()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE store_info SET value = '99' WHERE name = 'schema_version'")
    file.close()
    with pytest.raises(ValueError, match="schema version 99, this release reads 2 and older"):
        SqlLightningStore(path)


async def test_file_of_version_1_is_brought_up_to_date(tmp_path: Path):
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as old:
        old.executescript(VERSION_1.read_text())
    old.close()
    for _ in range(2):
        store = SqlLightningStore(path)
        done, waiting = await store.query_rollouts()
        assert isinstance(done, AttemptedRollout)
        assert (done.status, done.attempt.worker_id, waiting.status) == ("succeeded", "w", "queuing")
        call, odd = await store.query_spans(done.rollout_id)
        assert (call.links, call.resource.attributes, call.attributes) == ([], {"service.name": "old"}, {"x": 1.5})
        assert repr(odd.resource.attributes["odd"]) == "nan"
        assert [each.resources_id for each in await store.query_resources()] == [done.resources_id]
        await store.close()
    store = SqlLightningStore(path)
    rollout = await taken(store)
    assert rollout.input == "waiting"
    assert [span.sequence_id for span in await store.add_many_spans([span_of(rollout)])] == [1]
    await store.close()


async def test_one_failing_operation_of_a_group_fails_alone(sqlite: SqlLightningStore):
    def write_and_raise(ledger: Ledger) -> None:
        ledger.take_queued(1)
        raise KeyError("mine")

    ids = await enqueue(sqlite, 2)
    hold = Hold()
    holding = asyncio.create_task(sqlite._run(hold))  # pyright: ignore[reportPrivateUsage]
    await asyncio.to_thread(hold.started.wait)
    waiting = asyncio.create_task(sqlite.wait_for_rollouts(rollout_ids=[ids[1]]))
    group = [
        asyncio.create_task(sqlite.enqueue_rollout("before")),
        asyncio.create_task(sqlite._run(write_and_raise)),  # pyright: ignore[reportPrivateUsage]
        asyncio.create_task(sqlite.update_attempt(ids[0], "latest", status="failed")),
        asyncio.create_task(sqlite.update_rollout(ids[1], status="cancelled")),
        asyncio.create_task(sqlite.enqueue_rollout("after")),
    ]
    await asyncio.sleep(0)
    hold.release.set()
    await holding
    before, broken, refused, cancelled, after = await asyncio.gather(*group, return_exceptions=True)
    assert isinstance(broken, KeyError)
    assert isinstance(refused, ValueError)
    assert not isinstance(before, BaseException)
    assert not isinstance(after, BaseException)
    assert not isinstance(cancelled, BaseException)
    assert [rollout.status for rollout in await waiting] == ["cancelled"]
    order = [rollout.rollout_id for rollout in await sqlite.dequeue_many_rollouts(limit=9)]
    assert order == [ids[0], before.rollout_id, after.rollout_id]
    assert (await sqlite.query_rollouts()).total == 4


async def test_full_disk_reaches_the_caller_and_the_store_goes_on(sqlite: SqlLightningStore):
    def limit_pages(pages: int) -> None:
        sqlite._database.ledger._cursor.execute(f"PRAGMA max_page_count={pages}")  # pyright: ignore[reportPrivateUsage]

    rollout = await sqlite.start_rollout("task")
    await sqlite.add_span(span_of(rollout))
    limit_pages(60)
    big = [span_of(rollout, attributes={"text": "x" * 50_000}) for _ in range(20)]
    small = sqlite.enqueue_rollout("small")
    full, fits = await asyncio.gather(sqlite.add_many_spans(big), small, return_exceptions=True)
    assert isinstance(full, StoreUnavailableError)
    assert str(full) == f"store file `{sqlite.path}`: database or disk is full; nothing was changed, {MEND}"
    assert not isinstance(fits, BaseException)
    assert [span.name for span in await sqlite.query_spans(rollout.rollout_id)] == ["work"]
    limit_pages(100_000)
    assert [span.sequence_id for span in await sqlite.add_many_spans(big)] == list(range(2, 22))
    assert await status_of(sqlite, fits.rollout_id) == "queuing"


async def test_locked_file_reaches_the_caller_and_the_store_goes_on(sqlite: SqlLightningStore):
    other = sqlite3.connect(sqlite.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(*(sqlite.enqueue_rollout(i) for i in range(3)), return_exceptions=True)
    assert all(isinstance(result, StoreUnavailableError) and "is locked" in str(result) for result in results)
    other.execute("ROLLBACK")
    other.close()
    await sqlite.enqueue_rollout("task")
    assert [rollout.input for rollout in await sqlite.query_rollouts()] == ["task"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_forked_child_can_neither_use_nor_hold_the_store(sqlite: SqlLightningStore):
    await enqueue(sqlite, 1)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sqlite.dequeue_rollout().send(None)
        except RuntimeError as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    assert b"can't be used in a fork of it" in os.read(read_end, 1000)
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(RuntimeError, match="in use by this process"):
        SqlLightningStore(sqlite.path)
    assert (await taken(sqlite)).input == 0


def test_rows_and_tables_have_the_same_columns_in_the_same_order():
    rows = {
        "rollouts": RolloutRow,
        "attempts": AttemptRow,
        "spans": SpanRow,
        "resources": ResourcesRow,
        "workers": WorkerRow,
    }
    for name, row in rows.items():
        assert tuple(column.name for column in row_columns(metadata.tables[name])) == row._fields
    do = Statements(sqlite_dialect.dialect())
    assert do.insert_rollouts.names == RolloutRow._fields
    assert do.insert_attempt.names == AttemptRow._fields
    assert do.insert_spans.names == SpanRow._fields
    assert do.save_resources.names == ResourcesRow._fields
    assert do.save_worker.names == WorkerRow._fields
    assert do.save_rollout.names == (*RolloutRow._fields, "key_rollout_id")
    moved = ("end_time", "status", "attempts", "attempt_id", "last_sequence_id", "key_rollout_id")
    assert do.move_rollout.names == moved
    changed = ("end_time", "status", "worker_id", "last_heartbeat_time", "metadata")
    assert do.save_attempt.names == (*changed, "key_rollout_id", "key_attempt_id")


def test_import_of_the_package_does_not_import_sqlalchemy():
    code = "import sys, agentlightning.store; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_no_hot_statement_reads_a_whole_table(sqlite: SqlLightningStore):
    def scans(ledger: Ledger) -> list[str]:
        assert isinstance(ledger, SqlLedger)
        do, cursor = ledger._do, ledger._cursor  # pyright: ignore[reportPrivateUsage]
        plans: list[str] = []
        for name, statement in vars(do).items():
            if isinstance(statement, Statement) and name not in ("counts", "count_queue", "lock"):
                cursor.execute(f"EXPLAIN QUERY PLAN {statement.sql}", [None] * len(statement.names))
                plans += [f"{name}: {row[3]}" for row in cursor.fetchall()]
        return [plan for plan in plans if "SCAN" in plan and "INDEX" not in plan]

    # From the front of the queue, as many as are wanted.
    in_order = ["take_queued: SCAN queue"]
    assert await sqlite._run(scans) == in_order  # pyright: ignore[reportPrivateUsage]


async def test_a_file_is_in_use_under_all_its_names(tmp_path: Path):
    store = SqlLightningStore(tmp_path / "store.sqlite")
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "store.sqlite")
    with pytest.raises(StoreInUseError):
        SqlLightningStore(tmp_path / "link.sqlite")
    await store.close()


async def test_those_who_wait_for_a_locked_file_wait_together(tmp_path: Path):
    store = SqlLightningStore(tmp_path / "store.sqlite", lock_timeout=1.0)
    other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    calls = [asyncio.create_task(store.enqueue_rollout(number)) for number in range(60)]
    # A second each would be a minute.
    refused = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
    assert {type(each) for each in refused} == {StoreUnavailableError}
    other.execute("ROLLBACK")
    other.close()
    assert (await store.enqueue_rollout("after")).status == "queuing"
    await store.close()


async def test_what_was_written_gets_from_the_log_into_the_file_by_itself(tmp_path: Path) -> None:
    """Beside the writer, long before the log is full: a copy of the file without its log has the rollout."""
    store = SqlLightningStore(tmp_path / "store.sqlite", scan_interval=0.05)
    try:
        rollout = await store.enqueue_rollout("task")
        copy, found = tmp_path / "copy.sqlite", list[Any]()
        while not found:
            await asyncio.sleep(0.02)
            copy.write_bytes((tmp_path / "store.sqlite").read_bytes())
            connection = sqlite3.connect(copy)
            with contextlib.suppress(sqlite3.DatabaseError):  # copied in the middle of it
                found = connection.execute("SELECT rollout_id FROM rollouts").fetchall()
            connection.close()
        assert found == [(rollout.rollout_id,)]
    finally:
        await store.close()


async def test_what_is_asked_for_at_about_the_same_time_shares_a_commit(sqlite: SqlLightningStore) -> None:
    begun = 0

    def note(statement: str) -> None:
        nonlocal begun
        begun += statement.startswith("BEGIN")

    async def later() -> None:
        await asyncio.sleep(0)
        await sqlite.enqueue_rollout("later")

    assert isinstance(sqlite._database, SqliteFile)
    sqlite._database._connection.set_trace_callback(note)
    await asyncio.gather(*(sqlite.enqueue_rollout(number) for number in range(10)), later())
    assert begun < 6  # 1, and those of the scan in the background
    assert (await sqlite.statistics()).get("total_rollouts") == 11


async def test_what_was_asked_for_before_the_close_is_done(tmp_path: Path) -> None:
    store = SqlLightningStore(tmp_path / "store.sqlite")
    asked = [asyncio.create_task(store.enqueue_rollout(number)) for number in range(3)]
    await asyncio.sleep(0)
    await store.close()
    ids = {rollout.rollout_id for rollout in await asyncio.gather(*asked)}
    again = SqlLightningStore(tmp_path / "store.sqlite")
    assert {rollout.rollout_id for rollout in await again.query_rollouts()} == ids
    await again.close()


async def test_a_loop_that_ended_before_its_operation_was_handed_over_leaves_nothing(sqlite: SqlLightningStore) -> None:
    async def give_up() -> None:
        asking = asyncio.create_task(sqlite.enqueue_rollout("nobody waits"))
        await asyncio.sleep(0)
        asking.cancel()

    for _ in range(3):
        await asyncio.to_thread(lambda: asyncio.run(give_up()))
    await sqlite.enqueue_rollout("task")
    assert (await sqlite.statistics()).get("total_rollouts") == 1
    assert all(not loop.is_closed() for loop in sqlite._writer._gathered)
