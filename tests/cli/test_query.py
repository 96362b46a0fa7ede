"""`agl query`: a running store, a file, and the same answers from both."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import agentlightning as agl_package
from agentlightning.cli.app import app
from agentlightning.cli.query import DEFAULT_STORE, store_or_hint
from agentlightning.store import SqlLightningStore
from agentlightning.store.reader import SqliteReader
from agentlightning.types import LLM, RolloutConfig, StoreUnavailableError

from ..store.helpers import span_of, token_call
from .test_store import serving


async def fill(path: Path) -> dict[str, Any]:
    """A store with one rollout of each fate; their ids by fate."""
    store = SqlLightningStore(path)
    await store.add_resources({"main_llm": LLM(endpoint="http://127.0.0.1:9/v1", model="[tiny]")})

    @agl_package.rollout
    def agent(task: Any) -> float:
        if task["do"] == "fail":
            raise RuntimeError("no [bold] today")
        return task["do"]

    ids: dict[str, Any] = {}
    with agl_package.LitAgentRunner(agl_package.OtelTracer()).run_context(agent=agent, store=store) as runner:
        done = await runner.step({"do": 0.25}, mode="val")
        ids["succeeded"] = done.rollout_id
        with pytest.raises(RuntimeError):
            await runner.step({"do": "fail"})
    failed = await store.query_rollouts(status_in=["failed"])
    ids["failed"] = failed[0].rollout_id
    rollout = await store.start_rollout("x" * 500, config=RolloutConfig(max_attempts=3))
    call = span_of(rollout, "call").model_copy(update={"token_call": token_call((1, 2, 3), (4, 5))})
    await store.add_span(call)
    ids["running"] = rollout.rollout_id
    ids["queuing"] = (await store.enqueue_rollout({"n": 1})).rollout_id
    await store.close()
    return ids


@pytest.fixture
def filled(agl: Any) -> tuple[Path, dict[str, Any]]:
    run_dir = agl.directory / "runs" / "first"
    run_dir.mkdir(parents=True)
    return run_dir, asyncio.run(fill(run_dir / "store.sqlite"))


@pytest.fixture(params=["file", "directory", "server"])
def place(request: pytest.FixtureRequest, agl: Any, filled: tuple[Path, Any]) -> Iterator[str]:
    """What `--store` takes."""
    path = filled[0] / "store.sqlite"
    if request.param == "server":
        with serving(agl, str(path)) as (_, url):
            yield url
    else:
        yield str(path if request.param == "file" else filled[0])


def ask(*arguments: str, columns: int = 200) -> str:
    """What `agl query` prints. In this process: starting it takes longer than all that is asked."""
    done = CliRunner().invoke(app, ["query", *arguments], env={"COLUMNS": str(columns)}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def rows(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ask(*arguments, "--json").splitlines()]


def test_the_same_from_everywhere(place: str, filled: tuple[Path, dict[str, Any]]) -> None:
    ids = filled[1]
    everything = rows("rollouts", "--store", place, "--rewards")
    fates = ["succeeded", "failed", "running", "queuing"]
    assert [row["rollout_id"] for row in everything] == [ids[fate] for fate in fates]
    assert [row["status"] for row in everything] == fates
    assert [row["reward"] for row in everything] == [0.25, None, None, None]
    assert everything[1]["attempt"]["metadata"]["error"]["message"] == "no [bold] today"

    (one,) = rows("rollouts", ids["queuing"], "--store", place)
    assert one["input"] == {"n": 1}
    two = rows("rollouts", "--store", place, "--status", "failed", "--status", "queuing")
    assert [row["rollout_id"] for row in two] == [ids["failed"], ids["queuing"]]

    (attempt,) = rows("attempts", ids["failed"], "--store", place)
    assert attempt["status"] == "failed"
    (span,) = rows("spans", ids["running"], "--store", place)
    assert span["token_call"]["prompt_ids"] == [1, 2, 3]
    assert len(span["token_call"]["logprobs"]) == 2
    (counts,) = rows("statistics", "--store", place)
    assert counts["total_rollouts"] == 4
    (resources,) = rows("resources", "--store", place)
    assert resources["resources"]["main_llm"]["model"] == "[tiny]"
    (worker,) = rows("workers", "--store", place)
    assert worker["worker_id"] == "Worker-0"


def test_tables(filled: tuple[Path, dict[str, Any]]) -> None:
    place, ids = str(filled[0]), filled[1]
    shown = ask("rollouts", "--store", place).splitlines()
    lines = {fate: next(line for line in shown if ids[fate] in line) for fate in ids}
    assert "0.25" in lines["succeeded"]
    assert "val" in lines["succeeded"]
    assert "RuntimeError: no [bold] today" in lines["failed"]
    assert "1/3" in lines["running"]
    for kind, argument, expected in (
        ("attempts", [ids["failed"]], "RuntimeError"),
        ("spans", [ids["running"]], "3+2"),
        ("resources", [], "main_llm (llm)"),
        ("workers", [], "Worker-0"),
        ("statistics", [], "total_rollouts"),
    ):
        assert expected in ask(kind, *argument, "--store", place)


@pytest.mark.parametrize("columns", [60, 70, 80, 100])
def test_an_id_is_never_cut(filled: tuple[Path, dict[str, Any]], columns: int) -> None:
    shown = ask("rollouts", "--store", str(filled[0]), columns=columns)
    assert all(rollout_id in shown for rollout_id in filled[1].values())
    assert max(map(len, shown.splitlines())) <= max(columns, 75), "the columns that are never cut take 75"


def test_order_and_limit(filled: tuple[Path, dict[str, Any]]) -> None:
    place, ids = str(filled[0]), filled[1]
    newest = rows("rollouts", "--store", place, "--desc", "--limit", "2")
    assert [row["rollout_id"] for row in newest] == [ids["queuing"], ids["running"]]
    by_status = rows("rollouts", "--store", place, "--sort", "status")
    assert [row["status"] for row in by_status] == ["failed", "queuing", "running", "succeeded"]
    assert "2 of 4" in ask("rollouts", "--store", place, "--limit", "2")
    assert len(rows("rollouts", "--store", place, "--limit", "2", "--all")) == 4
    (found,) = rows("rollouts", "--store", place, "--contains", ids["failed"][3:])
    assert found["rollout_id"] == ids["failed"]
    (span,) = rows("spans", ids["failed"], "--store", place, "--contains", "exc")
    assert span["name"] == "agentlightning.exception"


async def test_a_file_is_read_while_a_store_works_with_it(filled: tuple[Path, dict[str, Any]]) -> None:
    store = SqlLightningStore(filled[0] / "store.sqlite")
    try:
        await store.enqueue_rollout("new")
        (counts,) = await asyncio.to_thread(rows, "statistics", "--store", str(filled[0]))
        assert counts["total_rollouts"] == 5
        await store.enqueue_rollout("newer")
    finally:
        await store.close()


def test_a_file_can_only_be_read(filled: tuple[Path, dict[str, Any]]) -> None:
    reader = SqliteReader(filled[0] / "store.sqlite")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        asyncio.run(reader.enqueue_rollout("new"))
    asyncio.run(reader.close())


def test_watch_asks_again(agl: Any, filled: tuple[Path, dict[str, Any]]) -> None:
    process = agl.start("query", "statistics", "--store", str(filled[0]), "--json", "--watch")
    try:
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert first["total_rollouts"] == second["total_rollouts"] == 4
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in error
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("rollouts", "--store", "nowhere"), "there is no store file `nowhere`"),
        (("rollouts", "--store", "agents.py"), "`agents.py` can't be read as a store"),
        (("rollouts", "--store", "http://127.0.0.1:9"), "http://127.0.0.1:9"),
        (("spans", "--store", "{run}"), "needs the id of a rollout"),
        (("workers", "ro-1", "--store", "{run}"), "takes no rollout id"),
        (("rollouts", "--sort", "colour", "--store", "{run}"), "`sort_by` is 'colour'"),
        (("rollouts", "--store", "http://127.0.0.1:99999"), "`--store http://127.0.0.1:99999` names no host and port"),
        (("rollouts", "--store", "ftp://127.0.0.1:1"), "`--store ftp://127.0.0.1:1`: `url_or_path` names"),
        (("spans", "ro-nope", "--store", "{run}"), "there is no rollout `ro-nope`"),
        (("rollouts", "ro-nope", "--store", "{run}"), "there is no rollout `ro-nope`"),
        (("workers", "--status", "failed", "--store", "{run}"), "`--status` is 'failed'; give one of idle, busy"),
        (("resources", "--status", "failed", "--store", "{run}"), "takes no `--status`; rollouts and workers do"),
        (("rollouts", "--attempt", "all", "--store", "{run}"), "takes no `--attempt`; spans do"),
    ],
)
def test_what_cannot_work_is_one_error(
    agl: Any, filled: tuple[Path, Any], arguments: tuple[str, ...], expected: str
) -> None:
    done = agl("query", *(argument.format(run=filled[0]) for argument in arguments))
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_who_finds_no_store_at_the_default_place_hears_of_runs() -> None:
    with (
        pytest.raises(StoreUnavailableError, match=r"nobody there. .*`--store runs/NAME`"),
        store_or_hint(DEFAULT_STORE),
    ):
        raise StoreUnavailableError("nobody there")
    with pytest.raises(StoreUnavailableError, match=r"^nobody there$"), store_or_hint("http://127.0.0.1:9"):
        raise StoreUnavailableError("nobody there")
