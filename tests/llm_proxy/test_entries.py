"""Model lists in LiteLLM's form: what they mean, and what is said where they mean nothing."""

from __future__ import annotations

import importlib.util
import re
import traceback
from typing import Any

import pytest

from agentlightning.llm_proxy.backends.anthropic import AnthropicBackend
from agentlightning.llm_proxy.backends.openai import HttpBackend
from agentlightning.llm_proxy.backends.sglang import SGLangBackend
from agentlightning.llm_proxy.entries import Entry, read_entry
from agentlightning.llm_proxy.limits import Limits
from agentlightning.llm_proxy.providers import connect
from agentlightning.llm_proxy.routes import ModelRoutes
from agentlightning.types import ConfigError

URL = "http://127.0.0.1:1/v1"
SECRET = "sk-very-secret"


def read(**params: Any) -> Entry:
    return read_entry({"model_name": "main", "litellm_params": params}, "model_list[0]")


@pytest.mark.parametrize(
    ("model", "kind", "name"),
    [
        ("m", HttpBackend, "m"),
        ("org/m", HttpBackend, "org/m"),
        ("openai/org/m", HttpBackend, "org/m"),
        ("hosted_vllm/org/m", HttpBackend, "org/m"),
        ("custom_openai/m", HttpBackend, "m"),
        ("lm_studio/m", HttpBackend, "m"),
        ("sglang/org/m", SGLangBackend, "org/m"),
        ("anthropic/claude", AnthropicBackend, "claude"),
    ],
)
def test_the_prefix_chooses_the_backend(model: str, kind: type, name: str) -> None:
    connection = read(model=model, api_base=URL + "/").connection
    backend = connect(connection)
    assert type(backend) is kind
    assert (connection.model, backend.base_url) == (name, URL)  # pyright: ignore[reportAttributeAccessIssue]


def test_providers_have_their_own_url_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-openai")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "from-anthropic")
    openai, anthropic = read(model="openai/gpt").connection, read(model="anthropic/claude").connection
    assert (openai.base_url, openai.api_key) == ("https://api.openai.com/v1", "from-openai")
    assert (anthropic.base_url, anthropic.api_key) == ("https://api.anthropic.com", "from-anthropic")
    assert "responses" in connect(openai).speaks
    # Another server must never be shown the provider's key.
    assert read(model="openai/gpt", api_base=URL).connection.api_key is None
    assert read(model="anthropic/claude", api_base=URL).connection.api_key is None


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("MY_URL", URL)
    found = read(model="m", api_base="os.environ/MY_URL", api_key="os.environ/MY_KEY").connection
    assert (found.base_url, found.api_key) == (URL, SECRET)
    with pytest.raises(
        ConfigError, match=r"`model_list\[0\].litellm_params.api_key` is 'os.environ/NOT_SET'.*set `NOT"
    ):
        read(model="m", api_base=URL, api_key="os.environ/NOT_SET")


def test_everything_an_entry_says_is_kept() -> None:
    entry = read(
        model="m", api_base=URL, rpm=30, max_parallel_requests=4, weight=2, timeout=9, speaks=["chat", "messages"]
    )
    assert (entry.limits, entry.weight, entry.connection.timeout) == (Limits(4, 30), 2.0, 9.0)
    assert connect(entry.connection).speaks == {"chat", "messages"}


def test_options_of_one_backend_are_for_that_one() -> None:
    assert read(model="sglang/m", api_base=URL, exact_streams=False).connection.options == {"exact_streams": False}
    with pytest.raises(ConfigError, match="unknown key `exact_streams`"):
        read(model="openai/m", api_base=URL, exact_streams=False)
    azure = read(model="azure/m", api_base=URL, api_version="2024", api_key=SECRET, extra_headers={"a": "b"})
    assert azure.connection.options == {"api_version": "2024", "extra_headers": {"a": "b"}}
    assert azure.connection.model == "azure/m"


@pytest.mark.skipif(importlib.util.find_spec("litellm") is not None, reason="LiteLLM is here")
def test_without_litellm_it_is_said_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"'gemini/pro' .*`pip install agentlightning\[litellm\]`"):
        connect(read(model="gemini/pro").connection)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"model": "m"}, r"`model_list\[0\].litellm_params.api_base` must be a string: .* not None"),
        ({"model": "sglang/m"}, "api_base` must be a string"),
        ({"api_base": URL}, r"`model_list\[0\].litellm_params.model` must be a string.* not None"),
        ({"model": 7, "api_base": URL}, "`model_list.*model` must be a string, not 7"),
        ({"model": "m", "api_base": URL, "timout": 3}, "unknown key `timout`; did you mean `timeout`?"),
        ({"model": "m", "api_base": URL, "max_parallel": 3}, "did you mean `max_parallel_requests`?"),
        ({"model": "m", "api_base": URL, "zzz": 3}, "unknown key `zzz`; known are model, api_base, api_key"),
        ({"model": "m", "api_base": URL, "timeout": 0}, "timeout` must be a number above 0, not 0"),
        ({"model": "m", "api_base": URL, "timeout": float("nan")}, "timeout` must be a number above 0, not nan"),
        ({"model": "m", "api_base": URL, "weight": "2"}, "weight` must be a number above 0, not '2'"),
        ({"model": "m", "api_base": URL, "rpm": 0}, r"`model_list\[0\].litellm_params`: `rpm` must be a whole number"),
        ({"model": "m", "api_base": URL, "input_cost_per_token": -1}, "input_cost_per_token` must be a number, 0 or"),
        ({"model": "m", "api_base": URL, "tempered_logprobs": 1}, "tempered_logprobs` must be true or false, not 1"),
        ({"model": "m", "api_base": URL, "speaks": "chat"}, "speaks` must be a list of some of chat, completions"),
        ({"model": "m", "api_base": URL, "speaks": ["talk"]}, "speaks` must be a list of some of chat, completions"),
        ({"model": "azure/m", "extra_headers": {1: object()}}, "must be plain JSON values"),
    ],
)
def test_what_can_not_be_used_is_refused(params: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read(**params)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("main", r"`model_list\[0\]` must have a `model_name` and `litellm_params`; it is or has str"),
        ({"model_name": "a"}, r"it is or has \['model_name'\]"),
        ({"model_name": 3, "litellm_params": {}}, "must have"),
        (
            {"model_name": "a", "litellm_params": {}, "model_inf": {}},
            "unknown key `model_inf`; did you mean `model_info`",
        ),
        ({"model_name": "a", "litellm_params": {}, "model_info": []}, None),
        ({"model_name": "a", "litellm_params": {}, "model_info": "x"}, "model_info` must be a mapping, not str"),
    ],
)
def test_an_entry_of_another_form_is_refused(entry: Any, expected: str | None) -> None:
    with pytest.raises(ConfigError, match=expected or "litellm_params.model"):
        read_entry(entry, "model_list[0]")


@pytest.mark.parametrize(
    "entry",
    [
        {"model_name": 3, "litellm_params": {"api_key": SECRET}},
        {"model_name": "a", "litellm_params": {"api_key": SECRET, "model": "m", "api_base": URL, "x": SECRET}},
        {"model_name": "a", "litellm_params": {"api_key": [SECRET], "model": "m", "api_base": URL}},
        {"model_name": "a", "litellm_params": {"api_key": SECRET, "model": "m"}},
        {"model_name": "a", "litellm_params": {"api_key": SECRET, "model": "azure/m", "azure_ad_token": {1: SECRET}}},
        {"model_name": "a", "litellm_params": {"api_key": SECRET, "model": "gemini/m", "client_secret": SECRET}},
    ],
)
def test_no_message_shows_a_secret(entry: dict[str, Any]) -> None:
    if importlib.util.find_spec("litellm") is not None and entry["litellm_params"].get("client_secret"):
        pytest.skip("LiteLLM is here, so this entry can be used")
    with pytest.raises(ConfigError) as caught:
        ModelRoutes().set_model_list([entry])
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


def test_nothing_printed_shows_a_secret() -> None:
    url = URL.replace("://", f"://user:{SECRET}@")
    entry = read(model="azure/m", api_base=url, api_key=SECRET, client_secret=SECRET)
    assert SECRET not in f"{entry!r} {entry} {entry.connection!r}"
    assert re.search("azure", repr(entry))
