"""OTLP exports, spoilt, to a real store's server: stored, refused or counted as rejected; never a failure of ours."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning.store import SqlLightningStore
from agentlightning.store.client_server import LightningStoreServer

from .exports import export, protobuf
from .mutations import ANY, spoilt
from .world import EXAMPLES

JSON, PROTOBUF = "application/json", "application/x-protobuf"
NAMES = """resourceSpans scopeSpans spans attributes value stringValue intValue boolValue doubleValue bytesValue
    arrayValue kvlistValue values key traceId spanId parentSpanId traceState startTimeUnixNano endTimeUnixNano status
    code message events links droppedAttributesCount flags kind name resource scope schemaUrl timeUnixNano"""
Post = Callable[[str, bytes], tuple[int, bytes]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Post, dict[str, Any]]]:
    store = SqlLightningStore(tmp_path_factory.mktemp("otlp") / "store.sqlite")
    made = LightningStoreServer(store)
    asyncio.run(made.start())
    rollout = asyncio.run(store.start_rollout("a task"))
    host = made.endpoint.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60)

    def post(content_type: str, data: bytes) -> tuple[int, bytes]:
        connection.request("POST", "/v1/traces", data, {"content-type": content_type})
        answer = connection.getresponse()
        return answer.status, answer.read()

    yield post, export(rollout.rollout_id, rollout.attempt.attempt_id)
    connection.close()
    asyncio.run(made.stop())
    asyncio.run(store.close())


def test_the_whole_export_is_taken(server: tuple[Post, dict[str, Any]]) -> None:
    post, good = server
    assert post(JSON, json.dumps(good).encode()) == (200, b"{}")


@settings(deadline=None, max_examples=3 * EXAMPLES, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_any_export_in_json(server: tuple[Post, dict[str, Any]], data: st.DataObject) -> None:
    post, good = server
    body = data.draw(spoilt(good, NAMES.split()) | ANY)
    status, answer = post(JSON, json.dumps(body).encode())
    assert status in (200, 400), answer
    assert isinstance(json.loads(answer), dict)


@settings(deadline=None, max_examples=3 * EXAMPLES, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_any_export_in_protobuf(server: tuple[Post, dict[str, Any]], data: st.DataObject) -> None:
    """Bytes of a good one, changed here and there."""
    post, good = server
    whole = bytearray(protobuf(good))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole)))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    status, answer = post(PROTOBUF, bytes(whole))
    assert status in (200, 400), answer


@pytest.mark.parametrize("depth", [90, 200, 400, 1000])
@pytest.mark.parametrize("pair", ["[]", '{"kvlistValue": {"values": [{"key": "a", "value": X}]}}', '{"a": X}'])
def test_deep_nesting(server: tuple[Post, dict[str, Any]], pair: str, depth: int) -> None:
    post, good = server
    value = {"key": "deep", "value": "DEEP"}
    good = json.loads(json.dumps(good))
    good["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"].append(value)
    before, _, after = (pair if "X" in pair else "[X]").partition("X")
    data = json.dumps(good).replace('"DEEP"', before * depth + "{}" + after * depth)
    status, answer = post(JSON, data.encode())
    assert status in (200, 400), answer
