"""Ten thousand clients that call at once over a thousand connections upstream: real sockets, real processes."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore

from . import crowd
from .conftest import until

CLIENTS = 10_000
UPSTREAM = 1_000
PROCESSES = 2
BYTES_PER_CLIENT = 60_000
"""With a prompt of 4 kB; measured: half of it."""


@pytest.fixture
def _many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if crowd.raise_limit() < CLIENTS + UPSTREAM + 500:
        pytest.skip(f"this machine allows no more than {before[1]} open files")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def process(*args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    script = str(Path(__file__).with_name("crowd.py"))
    child = await asyncio.create_subprocess_exec(sys.executable, script, *args, stdout=asyncio.subprocess.PIPE)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def first_line(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    return (await child.stdout.readline()).decode()


async def run_clients(proxy: LLMProxy, first: int, count: int, paths: list[str]) -> dict[str, int]:
    async with process("clients", proxy.base_url, str(count), str(first), *paths) as child:
        return json.loads(await first_line(child))


async def ask(method: str, url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
        return await answer.json(content_type=None)


@pytest.mark.slow
@pytest.mark.usefixtures("_many_files")
async def test_ten_thousand_clients_over_a_thousand_connections() -> None:
    store = InMemoryLightningStore()
    rollouts = [await store.start_rollout(number) for number in range(50)]
    async with process("upstream") as server:
        origin = f"http://127.0.0.1:{int(await first_line(server))}"
        proxy = LLMProxy(store=store)
        params = {"model": "hosted_vllm/m", "api_base": f"{origin}/v1"}
        proxy.update_model_list([{"model_name": "main", "litellm_params": params}])
        await proxy.start()
        resources = [proxy.as_resource(one.rollout_id, one.attempt.attempt_id) for one in rollouts]
        paths = ["/" + one.endpoint.split("/", 3)[3] + "/chat/completions" for one in resources]
        before = psutil.Process().memory_info().rss
        share = CLIENTS // PROCESSES
        running = [asyncio.create_task(run_clients(proxy, at * share, share, paths)) for at in range(PROCESSES)]

        limiter = proxy._routes._limiter  # pyright: ignore[reportPrivateUsage]
        await until(lambda: limiter.waiting == CLIENTS - UPSTREAM or any(task.done() for task in running))
        grown = psutil.Process().memory_info().rss - before
        full = await ask("GET", f"{origin}/stats")
        await ask("POST", f"{origin}/release")
        outcomes = sum((Counter(outcome) for outcome in await asyncio.gather(*running)), Counter[str]())
        stats = await ask("GET", f"{origin}/stats")
        await proxy.drain(timeout=60)
        await proxy.stop()

    print(f"{grown / CLIENTS:.0f} bytes a waiting client; {stats}")
    assert outcomes == {"right": CLIENTS}
    assert (full["running"], full["connections"]) == (UPSTREAM, UPSTREAM)
    assert (stats["asked"], stats["most"], stats["running"]) == (CLIENTS, UPSTREAM, 0)
    assert stats["connections"] <= UPSTREAM
    assert grown < CLIENTS * BYTES_PER_CLIENT
    spans = [span for one in rollouts for span in await store.query_spans(one.rollout_id)]
    assert len({span.attributes["gen_ai.input.messages"] for span in spans if span.token_call}) == CLIENTS
    await store.close()
