"""Starting and stopping, ports and hosts, models and resources."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import openai
import pytest

from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import LLM, AttemptedRollout, ConfigError, ProxyLLM, RequestError

from .conftest import QUESTION, LocalBackend, Upstream, client_for, until


def entry(name: str = "main", **params: Any) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"model": "m", "api_base": "http://127.0.0.1:1/v1", **params}}


def gateway_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "agentlightning-gateway"]


async def test_start_and_stop_again_and_again(backend: LocalBackend) -> None:
    proxy = LLMProxy()
    proxy.set_backend("tiny", backend)
    assert not proxy.is_running()
    await proxy.stop()
    for _ in range(2):
        await asyncio.gather(proxy.start(), proxy.start())
        await proxy.start()
        assert proxy.is_running()
        assert len(gateway_threads()) == 1
        async with client_for(proxy) as client:
            await client.chat.completions.create(model="tiny", messages=QUESTION)
        await proxy.stop()
        await proxy.stop()
        assert not proxy.is_running()
        assert gateway_threads() == []


async def test_a_restart_keeps_a_fixed_port(backend: LocalBackend) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    proxy = LLMProxy(port)
    proxy.set_backend("tiny", backend)
    await proxy.start()
    await proxy.restart()
    try:
        assert proxy.port == port
        async with client_for(proxy) as client:
            await client.chat.completions.create(model="tiny", messages=QUESTION)
    finally:
        await proxy.stop()


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        proxy = LLMProxy(port)
        with pytest.raises(ConfigError, match=f"`port` {port} on `host` 127.0.0.1 can't be used.*`port=None`"):
            await proxy.start()
        assert not proxy.is_running()
        assert gateway_threads() == []
    await proxy.start()
    await proxy.stop()


async def test_two_gateways_do_not_share_a_port() -> None:
    first, second = LLMProxy(), LLMProxy()
    await asyncio.gather(first.start(), second.start())
    assert first.port != second.port
    third = LLMProxy(first.port)
    with pytest.raises(ConfigError, match=str(first.port)):
        await third.start()
    await asyncio.gather(first.stop(), second.stop())


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=f"`port` {port} is not between 0 and 65535"):
        LLMProxy(port)


async def test_stop_lets_running_calls_finish(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    release = threading.Event()

    class Slow(LocalBackend):
        async def call(self, dialect: Any, body: dict[str, Any]) -> Any:
            self.waiting += 1
            await asyncio.to_thread(release.wait)
            return await super().call(dialect, body)

    slow = Slow()
    proxy.set_backend("tiny", slow)
    async with client_for(proxy, rollout) as client:
        call = asyncio.create_task(client.chat.completions.create(model="tiny", messages=QUESTION))
        await until(lambda: slow.waiting == 1)
        stopping = asyncio.create_task(proxy.stop())
        await asyncio.sleep(0)
        release.set()
        assert (await call).choices[0].message.content == "answer 0"
        await stopping
    assert len(await store.query_spans(rollout.rollout_id)) == 1


def test_an_open_host_needs_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "gateway.example"):
        with pytest.raises(ConfigError, match=r"needs an `api_key`"):
            LLMProxy(host=host)
        LLMProxy(host=host, api_key="k")
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        LLMProxy(host=host)


async def test_a_wildcard_host_is_reached_by_another_name(backend: LocalBackend) -> None:
    proxy = LLMProxy(host="0.0.0.0", api_key="k")
    proxy.set_backend("tiny", backend)
    await proxy.start()
    try:
        assert proxy.base_url == f"http://127.0.0.1:{proxy.port}/v1"
        async with client_for(proxy) as client:
            await client.chat.completions.create(model="tiny", messages=QUESTION)
    finally:
        await proxy.stop()
    named = LLMProxy(4000, host="0.0.0.0", api_key="k", access_host="box.example")
    assert named.base_url == "http://box.example:4000/v1"
    assert LLMProxy(4000, host="::1").base_url == "http://[::1]:4000/v1"


# -- models -------------------------------------------------------------------------------------------------------


async def test_the_model_list_changes_while_running(
    proxy: LLMProxy, upstream: Upstream, rollout: AttemptedRollout
) -> None:
    async with client_for(proxy, rollout) as client:
        with pytest.raises(openai.NotFoundError, match="served models: `tiny`"):
            await client.chat.completions.create(model="other", messages=QUESTION)
        proxy.update_model_list([entry("other", api_base=upstream.url)])
        await client.chat.completions.create(model="other", messages=QUESTION)
        await client.chat.completions.create(model="tiny", messages=QUESTION)
        proxy.set_backend("tiny", None)
        with pytest.raises(openai.NotFoundError, match="served models: `other`"):
            await client.chat.completions.create(model="tiny", messages=QUESTION)
        proxy.update_model_list([])
        with pytest.raises(openai.NotFoundError, match="served models: none"):
            await client.chat.completions.create(model="other", messages=QUESTION)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ({"model_name": "a"}, r"`model_list\[0\]` must have a `model_name` and `litellm_params`"),
        ({"litellm_params": {}}, r"`model_list\[0\]` must have"),
        (entry(api_bas="x"), r"`model_list\[0\].litellm_params` .*`api_bas`.*`api_base`"),
        (entry(api_base=None), r"`model_list\[0\].litellm_params.api_base` must be a string"),
        (entry(model=7), r"`model_list\[0\].litellm_params.model` must be a string"),
    ],
)
def test_a_broken_model_list_is_refused_and_the_old_one_stays(broken: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        LLMProxy(model_list=[broken])
    proxy = LLMProxy(4000, model_list=[entry("old")])
    with pytest.raises(ConfigError, match=expected.replace("[0", "[1")):
        proxy.update_model_list([entry("new"), broken])
    assert proxy.as_resource().model == "old"


# -- resources ----------------------------------------------------------------------------------------------------


def test_as_resource() -> None:
    proxy = LLMProxy(4000, model_list=[entry("first"), entry("second")])
    resource = proxy.as_resource(sampling_parameters={"temperature": 0.5})
    assert type(resource) is ProxyLLM
    assert resource.model_dump() == {
        "resource_type": "proxy_llm",
        "endpoint": "http://127.0.0.1:4000/v1",
        "model": "first",
        "api_key": "none",
        "sampling_parameters": {"temperature": 0.5},
        "confirms_calls": True,
    }
    assert resource.get_base_url("ro-1", "at-1") == "http://127.0.0.1:4000/rollout/ro-1/attempt/at-1/v1"
    attempt = proxy.as_resource("ro-1", "at-1", model="second")
    assert type(attempt) is LLM
    assert (attempt.endpoint, attempt.model) == (resource.get_base_url("ro-1", "at-1"), "second")


def test_as_resource_refuses_what_it_can_not_give() -> None:
    proxy = LLMProxy(4000, model_list=[entry("first")])
    with pytest.raises(ValueError, match=r"'other' is not served; give one of \['first'\]"):
        proxy.as_resource(model="other")
    with pytest.raises(ValueError, match="both"):
        proxy.as_resource("ro-1")
    with pytest.raises(ValueError, match="None is not served"):
        LLMProxy(4000).as_resource()
    with pytest.raises(RuntimeError, match="no port yet"):
        LLMProxy(model_list=[entry()]).as_resource()


def test_an_unknown_model_names_those_that_are_served() -> None:
    proxy = LLMProxy(4000, model_list=[entry("first")])
    with pytest.raises(RequestError, match="`first`") as caught:
        proxy._routes.find("x")  # pyright: ignore[reportPrivateUsage]
    assert caught.value.to_body()["error"] == {
        "message": "no model `x` here; served models: `first`",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
