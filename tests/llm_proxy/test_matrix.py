"""Every interface and feature on every kind of backend, by real clients: the table in `docs/gateway.md`."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentlightning import semconv
from agentlightning.inference.engine import Engine
from agentlightning.inference.server import create_app
from agentlightning.inference.service import ChatService
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Span
from agentlightning.utils.server_thread import ThreadedServer
from tests.clients.watch import Watch, watch
from tests.inference.conftest import tokenizer, trained

from .agents import ERRORS, PIXEL, Got, Name, ask
from .backends.endpoint import Endpoint, serving, value
from .backends.fake_anthropic import KEY
from .upstreams import ARGUMENTS, IDS, VECTOR, Upstream

__all__ = ["tokenizer", "trained"]  # fixtures

PAGE = Path(__file__).parent.parent.parent / "docs" / "gateway.md"
HEADING = "| interface | feature |"
FEATURES: dict[str, dict[str, Any]] = {
    "whole": {},
    "streamed": {"stream": True},
    "tool calls": {"tools": True},
    "tool calls, streamed": {"tools": True, "stream": True},
    "several choices": {"n": 2},
    "several choices, streamed": {"n": 2, "stream": True},
    "log-probs": {"logprobs": True},
    "images": {"image": True},
}
INTERFACES: dict[str, Name] = {
    "chat completions": "chat",
    "completions": "completions",
    "responses": "responses",
    "messages": "messages",
    "embeddings": "embeddings",
}


@dataclass(frozen=True)
class Cell:
    interface: str
    feature: str
    backend: str
    told: str

    def __str__(self) -> str:
        return f"{self.interface}-{self.feature}-{self.backend}".replace(" ", "_")


def cells() -> Iterator[Cell]:
    lines = PAGE.read_text().splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(HEADING))
    backends = [each.strip() for each in lines[start].strip("|").split("|")][2:]
    interface = ""
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        named, feature, *told = (each.strip() for each in line.strip("|").split("|"))
        interface = named or interface
        for backend, each in zip(backends, told, strict=True):
            yield Cell(interface, feature, backend, each)


@pytest.fixture(scope="module")
def service(trained: Any, tokenizer: Any) -> Iterator[ChatService]:
    engine = Engine(trained, tokenizer, max_slots=8)
    engine.start()
    yield ChatService(engine, tokenizer, "m", aliases=["main"])
    engine.stop()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with serving() as started:
        yield started


def entry(url: str, model: str, **params: Any) -> dict[str, Any]:
    return {"model_name": "main", "litellm_params": {"model": model, "api_base": url, **params}}


def connect(proxy: LLMProxy, backend: str, endpoint: Endpoint, upstream: Upstream) -> None:
    """Serve `main` by an endpoint of this kind."""
    model, answer, params = {
        "vLLM": ("hosted_vllm/m", upstream.vllm, {"tempered_logprobs": True}),
        "SGLang": ("sglang/m", upstream.sglang, {}),
        "OpenAI": ("openai/m", upstream.openai, {"speaks": ["chat", "completions", "responses", "embeddings"]}),
        "Anthropic": ("anthropic/m", upstream.anthropic, {"api_key": KEY}),
        "LiteLLM": ("litellm_proxy/m", upstream.vllm, {"api_key": "x"}),
    }[backend]
    if backend == "LiteLLM" and importlib.util.find_spec("litellm") is None:
        pytest.skip(
            "LiteLLM is not here; it needs openai 2: run this file where `agentlightning[litellm]` is installed"
        )
    endpoint.answer = answer
    proxy.update_model_list([entry(endpoint.url, model, **params)])


@pytest.mark.parametrize("cell", [*cells()], ids=str)
async def test_the_table_is_true(
    cell: Cell,
    service: ChatService,
    endpoint: Endpoint,
    store: InMemoryLightningStore,
    rollout: AttemptedRollout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, upstream, seen = FEATURES[cell.feature], Upstream(), watch(monkeypatch)
    name = INTERFACES[cell.interface]
    proxy = LLMProxy(store=store, num_retries=0)
    proxy.sampling_parameters = {"train": {"temperature": 0.7}}
    server = ThreadedServer("127.0.0.1", None, lambda: create_app(service), name="engine-server")
    if cell.backend == "native engine":
        proxy.set_backend("main", service)
    elif cell.backend == "`agl serve`":
        await server.start()
        url = f"http://127.0.0.1:{server.port}/v1"
        proxy.update_model_list([entry(url, "hosted_vllm/m", tempered_logprobs=True)])
    else:
        connect(proxy, cell.backend, endpoint, upstream)
    await proxy.start()
    try:
        if cell.told == "no":
            with pytest.raises(ERRORS) as caught:
                await ask(name, proxy, rollout, **features)
            assert 400 <= caught.value.status_code < 500  # type: ignore[attr-defined]
        else:
            got = await ask(name, proxy, rollout, on_event=upstream.go_on.set, **features)
    finally:
        await proxy.stop()
        if server.is_running():
            await server.stop()
    spans = await store.query_spans(rollout.rollout_id)
    if cell.told == "no":
        assert [(span.status.status_code, span.token_call) for span in spans] == [("ERROR", None)]
        return
    native = cell.backend in ("native engine", "`agl serve`")
    check_answer(got, name, features, native=native)
    if native:
        assert (bool(seen.streamed), bool(seen.whole)) == ("stream" in features, "stream" not in features)
    else:
        check_sent(endpoint, cell, features)
    check_spans(spans, cell, seen if native else None, features)


def check_answer(got: Got, name: Name, features: dict[str, Any], *, native: bool) -> None:
    if name == "embeddings":
        assert got.vector == VECTOR
        return
    n = features.get("n", 1)
    assert len(got.texts) == n
    if features.get("tools"):
        assert got.tools == [("calculator", ARGUMENTS)]
    elif not native:
        assert [got.texts[at] for at in range(n)] == ["".join(f"w{one} " for one in ids) for ids in IDS[:n]]
    if features.get("logprobs"):
        assert got.logprobs
        assert native or got.logprobs == [*map(value, IDS[0])]
    else:
        assert got.logprobs == [], "the agent gets only what it asked for"


def check_sent(endpoint: Endpoint, cell: Cell, features: dict[str, Any]) -> None:
    """What went to the endpoint. A stream there waits behind its first piece until the agent has got something."""
    asked = endpoint.bodies[-1]
    assert (PIXEL in str(asked)) == bool(features.get("image")), "images pass untouched"
    if "stream" in features:
        assert bool(asked.get("stream")) == (cell.told != "exact, at once")


def check_spans(spans: list[Span], cell: Cell, seen: Watch | None, features: dict[str, Any]) -> None:
    if cell.interface == "embeddings":
        (span,) = spans
        assert (span.name, span.status.status_code, span.token_call) == (semconv.EMBEDDING_SPAN, "OK", None)
        return
    assert len(spans) == features.get("n", 1)
    for span in spans:
        assert span.name == semconv.LLM_CALL_SPAN
        assert span.attributes[semconv.TOKEN_IDS] == ("unavailable" if cell.told == "text" else "recorded")
    if cell.told == "text":
        assert all(span.token_call is None for span in spans)
        return
    calls = [span.token_call for span in spans]
    ids = [(tuple(call.prompt_ids.tolist()), tuple(call.response_ids.tolist())) for call in calls if call is not None]
    assert len(ids) == len(spans)
    assert all(call is not None and call.logprobs is not None and call.temperature == 0.7 for call in calls)
    if seen is not None:
        assert sorted(ids) == sorted(seen.whole + seen.streamed)
    else:
        assert [response for _, response in ids] == [*IDS[: len(ids)]]
        for (_, response), call in zip(ids, calls, strict=True):
            assert call is not None
            assert call.logprobs is not None
            assert call.logprobs.tolist() == [*map(value, response)]
