"""`agl store`: a server that is there again after it died, and ends when it is told."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from agentlightning.store import LightningStore, LightningStoreClient, SqlLightningStore
from agentlightning.types import StoreClosedError

R = TypeVar("R")


@contextmanager
def serving(agl: Any, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the URL of a store on a free port."""
    process = agl.start("store", *arguments, "--port", "0", **environment)
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]
        found = re.search(r"http://127\.0\.0\.1:\d+", lines[1])
        assert found, "".join(lines) + process.stderr.read()
        yield process, found[0]
    finally:
        for child in children(process):
            child.kill()
        process.kill()
        process.communicate()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        return []


def with_client(url: str, work: Callable[[LightningStore], Awaitable[R]], token: str | None = None) -> R:
    async def run() -> R:
        client = LightningStoreClient(url, token=token)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def enqueue_one(store: LightningStore) -> str:
    return (await store.enqueue_rollout({"n": 1})).rollout_id


async def total(store: LightningStore) -> int:
    return (await store.query_rollouts()).total


def test_a_file_here_is_the_default_and_it_stays(agl: Any) -> None:
    with serving(agl) as (process, url):
        with_client(url, enqueue_one)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (agl.directory / "agl-store.sqlite").exists()
    with serving(agl) as (_, url):
        assert with_client(url, total) == 1


def test_what_is_printed_says_what_to_do(agl: Any) -> None:
    with serving(agl, "kept.sqlite") as (process, url):
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        out, error = process.stdout.read(), process.stderr.read()
    assert f"agl runner my_agent:agent --store {url}" in out
    assert f"agl query rollouts --store {url}" in out
    assert "Traceback" not in error


def test_a_server_that_is_killed_is_started_again_in_the_same_place(agl: Any) -> None:
    with serving(agl) as (process, url):
        for round_ in range(3):
            (child,) = children(process)
            with_client(url, enqueue_one)
            child.kill()
            assert with_client(url, total) == round_ + 1  # the client waits for the next one
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr.read().count("the store's server died (SIGKILL)") == 3
        assert not children(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("arguments", [(), ("--no-supervise",), ("--memory",)])
def test_who_waits_for_work_is_told_of_the_end(agl: Any, number: signal.Signals, arguments: tuple[str, ...]) -> None:
    with serving(agl, *arguments) as (process, url):

        async def wait(store: LightningStore) -> str:
            waiting = asyncio.ensure_future(store.dequeue_rollout("Worker-x", timeout=600))
            while await store.get_worker_by_id("Worker-x") is None:  # noqa: ASYNC110  # it has asked once, and waits
                await asyncio.sleep(0.01)
            process.send_signal(number)
            with pytest.raises(StoreClosedError):
                await waiting
            return "told"

        assert with_client(url, wait) == "told"
        assert process.wait(60) in (0, 130)


def test_the_server_ends_when_its_parent_is_killed(agl: Any) -> None:
    with serving(agl) as (process, _):
        (child,) = children(process)
        process.kill()
        process.wait()
        child.wait(60)


def test_in_memory(agl: Any) -> None:
    with serving(agl, "--backend", "memory", "--retention", "1") as (process, url):
        assert with_client(url, enqueue_one)
        assert not children(process)
    assert not (agl.directory / "agl-store.sqlite").exists()


def test_retention(agl: Any) -> None:
    async def end_three(store: LightningStore) -> int:
        for _ in range(3):
            rollout = await store.start_rollout("task")
            await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
        while (left := await total(store)) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return left

    with serving(agl, "--memory", "--retention", "1") as (_, url):
        assert with_client(url, end_three) == 1


def test_a_token_is_asked_for_and_not_shown(agl: Any) -> None:
    with serving(agl, AGL_STORE_TOKEN="open-sesame") as (process, url):
        assert with_client(url, total, token="open-sesame") == 0
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/v1/agl/statistics")
        lines = [" ".join(p.cmdline()) for p in [psutil.Process(process.pid), *children(process)]]
        assert not [line for line in lines if "sesame" in line]


def test_pages_from_elsewhere_may_call_if_they_are_named(agl: Any) -> None:
    with serving(agl, "--cors-origin", "http://my.page") as (_, url):
        request = urllib.request.Request(f"{url}/v1/agl/statistics", headers={"Origin": "http://my.page"})
        with urllib.request.urlopen(request) as answer:
            assert answer.headers["access-control-allow-origin"] == "http://my.page"


def test_the_module_is_the_command(agl: Any) -> None:
    command = [sys.executable, "-m", "agentlightning.cli", "--version"]
    done = subprocess.run(command, cwd=agl.directory, capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.startswith("agl ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("no/such/directory/store.sqlite",), "`no/such/directory` doesn't exist"),
        (("agents.py",), "is no SQLite database"),
        ((".",), "`.` is a directory; give a file, as `store.sqlite`"),
        (("--host", "0.0.0.0"), "needs a `token`"),
        (("--memory", "kept.sqlite"), "`--memory` keeps nothing in `kept.sqlite`"),
        (("--backend", "mongo"), "`--backend mongo` is not built"),
        (("--backend", "postgresql"), "needs its URL"),
        (("--tracker", "console"), "`--tracker console` is not built"),
        (("--log-level", "loud"), "`--log-level` is 'loud'"),
        (("--port", "{taken}"), "can't be used"),
        (("{used}",), "is in use by"),
    ],
)
def test_what_cannot_work_is_one_error(agl: Any, arguments: tuple[str, ...], expected: str) -> None:
    used = SqlLightningStore(agl.directory / "used.sqlite")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"taken": str(taken.getsockname()[1]), "used": str(agl.directory / "used.sqlite")}
        done = agl("store", *(argument.format(**values) for argument in arguments))
    asyncio.run(used.close())
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr


def test_a_password_is_not_printed() -> None:
    from agentlightning.cli.store_process import shown_home

    assert "secret" not in shown_home("postgresql://me:secret@db.example/agl")
    assert shown_home("here.sqlite") == str(Path("here.sqlite").resolve())
