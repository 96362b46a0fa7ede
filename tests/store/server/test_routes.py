"""The REST surface as others use it: the bodies that Agent-Lightning 0.3's client sends, status codes, refusals."""

from __future__ import annotations

import gzip
import json
from typing import Any

import aiohttp
import pytest

from agentlightning.store import InMemoryLightningStore
from agentlightning.store.client_server import LightningStoreServer

from .conftest import API, Http

CONFIG = {"timeout_seconds": None, "unresponsive_seconds": None, "max_attempts": 1, "retry_condition": []}
REQUEST = {"input": {"question": 1}, "mode": "train", "resources_id": None, "config": CONFIG, "metadata": {"k": [1]}}
SPAN_FIELDS = {
    "sequence_id": 1,
    "trace_id": "a" * 32,
    "span_id": "b" * 16,
    "parent_id": None,
    "name": "step",
    "status": {"status_code": "OK", "description": None},
    "attributes": {"reward": 0.5, "tags": ["a", "b"]},
    "events": [{"name": "e", "attributes": {}, "timestamp": 1.5}],
    "links": [],
    "start_time": 1.0,
    "end_time": 2.0,
    "context": None,
    "parent": None,
    "resource": {"attributes": {"service.name": "agent"}, "schema_url": ""},
}


async def test_the_life_of_a_rollout_in_the_words_of_the_upstream_client(http: Http):
    made = await http.post(f"{API}/queues/rollouts/enqueue", {"rollouts": [REQUEST]})
    rollout_id = made.body[0]["rollout_id"]
    assert (made.status, made.body[0]["status"], made.body[0]["metadata"]) == (201, "queuing", {"k": [1]})
    assert made.body[0]["config"] == CONFIG
    assert set(made.body[0]) == {
        "rollout_id", "input", "start_time", "end_time", "mode", "resources_id", "status", "config", "metadata",
    }  # fmt: skip

    taken = await http.post(f"{API}/queues/rollouts/dequeue", {"limit": 1, "worker_id": "w"})
    attempt = taken.body[0]["attempt"]
    assert (taken.status, attempt["status"], attempt["worker_id"]) == (200, "preparing", "w")
    assert await _body(http.post(f"{API}/queues/rollouts/dequeue", {"limit": 1})) == []

    ids = {"rollout_id": rollout_id, "attempt_id": attempt["attempt_id"]}
    assert await _body(http.post(f"{API}/spans/next", ids)) == {"sequence_id": 1}
    span = await http.post(f"{API}/spans", {**SPAN_FIELDS, **ids})
    assert (span.status, span.body) == (201, {**SPAN_FIELDS, **ids, "token_call": None})
    assert await _body(http.post(f"{API}/spans", {**SPAN_FIELDS, **ids})) is None
    found = await http.post(f"{API}/spans/search", {"rollout_id": rollout_id, "limit": -1, "offset": 0})
    assert (found.body["total"], found.body["items"]) == (1, [span.body])

    path = f"{API}/rollouts/{rollout_id}"
    ended = await http.post(f"{path}/attempts/{attempt['attempt_id']}", {"status": "succeeded"})
    assert (ended.status, ended.body["status"]) == (200, "succeeded")
    waited = await http.post(f"{API}/waits/rollouts", {"rollout_ids": [rollout_id], "timeout": 0.05})
    assert [rollout["status"] for rollout in waited.body] == ["succeeded"]
    assert (await _body(http.get(path)))["attempt"] == ended.body
    assert (await _body(http.get(f"{path}/attempts/latest"))) == ended.body
    page = await http.post(f"{path}/attempts/search", {"limit": -1, "offset": 0, "sort_by": "sequence_id"})
    assert page.body == {"items": [ended.body], "limit": -1, "offset": 0, "total": 1}


async def test_starting_resources_and_workers_in_the_words_of_the_upstream_client(http: Http):
    resources = {"prompt": {"resource_type": "prompt_template", "template": "{x}", "engine": "f-string"}}
    added = await http.post(f"{API}/resources", resources)
    resources_id = added.body["resources_id"]
    assert (added.status, added.body["version"]) == (201, 1)
    assert (await http.post(f"{API}/resources/{resources_id}", resources)).body["version"] == 2
    assert (await http.get(f"{API}/resources/latest")).body["version"] == 2
    assert (await http.get(f"{API}/resources?limit=-1&offset=0&resources_id={resources_id}")).body["total"] == 1

    started = await http.post(f"{API}/rollouts", {**REQUEST, "resources_id": resources_id, "worker_id": "w"})
    assert (started.status, started.body["attempt"]["sequence_id"]) == (201, 1)
    path = f"{API}/rollouts/{started.body['rollout_id']}"
    again = await http.post(f"{path}/attempts", None)
    assert (again.status, again.body["attempt"]["sequence_id"]) == (201, 2)
    changed = await http.post(path, {"mode": None, "status": "cancelled"})
    assert (changed.body["mode"], changed.body["status"], changed.body["resources_id"]) == (
        None,
        "cancelled",
        resources_id,
    )

    beat = await http.post(f"{API}/workers/w%2F1", {"heartbeat_stats": {"cpu": 5}})
    assert (beat.body["worker_id"], beat.body["heartbeat_stats"]) == ("w/1", {"cpu": 5})
    assert (await http.post(f"{API}/workers/search", {"worker_id_contains": "/"})).body["total"] == 1
    assert (await http.get(f"{API}/workers?worker_id_contains=/&worker_id_contains=x")).body["total"] == 0
    assert (await http.get(f"{API}/statistics")).body["total_attempts"] == 2


async def test_queries_take_lists_and_pages_from_the_query_string(http: Http):
    requests = [{"input": number, "mode": "val"} for number in range(5)]
    made = await _body(http.post(f"{API}/queues/rollouts/enqueue", {"rollouts": requests}))
    ids = [rollout["rollout_id"] for rollout in made]
    await http.post(f"{API}/rollouts/{ids[0]}", {"status": "cancelled"})
    found = await http.get(f"{API}/rollouts?status_in=queuing&status_in=cancelled&sort_by=start_time&limit=2&offset=1")
    assert ([rollout["rollout_id"] for rollout in found.body["items"]], found.body["total"]) == (ids[1:3], 5)
    assert (found.body["limit"], found.body["offset"]) == (2, 1)
    either = f"status_in=cancelled&rollout_id_in={ids[4]}&filter_logic=or"
    assert (await http.get(f"{API}/rollouts?{either}")).body["total"] == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "names"),
    [
        ("rollouts/search", {"sort_by": "colour"}, 422, "`sort_by`"),
        ("rollouts/search", {"sort_order": "up"}, 422, "`sort_order` is 'up'; give one of asc, desc"),
        ("rollouts/search", {"limit": 0}, 422, "`limit`"),
        ("rollouts/search", {"limit": -2}, 422, "`limit`"),
        ("rollouts/search", {"offset": -1}, 422, "`offset`"),
        ("rollouts/search", {"limit": "many"}, 422, "`limit`"),
        ("rollouts/search", {"status_in": ["lost"]}, 422, "`status_in.0` is 'lost'; give one of queuing"),
        ("rollouts/search", [], 422, "`body`"),
        ("queues/rollouts/dequeue", {"limit": 0}, 422, "`limit`"),
        ("queues/rollouts/dequeue", {"timeout": -1}, 422, "`timeout`"),
        ("queues/rollouts/enqueue", {"rollouts": [{"mode": "train"}]}, 422, "`rollouts.0.input` is missing"),
        ("queues/rollouts/enqueue", {"rollouts": [{"input": 1, "resources_id": "rs-0"}]}, 404, "`resources_id`"),
        ("rollouts/ro-0", {"status": "cancelled"}, 404, "`rollout_id`"),
        ("rollouts/ro-0", {"status": None}, 422, "`status`"),
        ("rollouts/ro-0/attempts", {}, 404, "`rollout_id`"),
        ("rollouts/ro-0/attempts/latest", {"status": "running"}, 404, "`rollout_id`"),
        ("spans", {"name": "x"}, 422, "`rollout_id` is missing"),
        ("spans/many", [{**SPAN_FIELDS, "rollout_id": "ro-0", "attempt_id": "at-0"}], 404, "`rollout_id`"),
        ("spans/next", {"rollout_id": "ro-0", "attempt_id": "at-0"}, 404, "`rollout_id`"),
        ("resources", {"a": {"resource_type": "spell"}}, 422, "resource_type"),
        ("waits/rollouts", {}, 422, "`rollout_ids` is missing"),
        ("rollouts/trim", {"retention": -1}, 422, "`retention`"),
        ("nothing/here", {}, 404, "/openapi.json"),
    ],
)
async def test_refusals_name_the_field(http: Http, path: str, body: Any, status: int, names: str):
    answer = await http.post(f"{API}/{path}", body)
    assert (answer.status, set(answer.body)) == (status, {"detail", "error_type"})
    assert names in answer.body["detail"]


async def test_unknown_things_are_not_found(http: Http):
    for path in ("rollouts/ro-0", "rollouts/ro-0/attempts/latest", "resources/rs-0", "resources/latest", "workers/w"):
        answer = await http.get(f"{API}/{path}")
        assert (answer.status, answer.body["error_type"]) == (404, "NotFoundError")
    assert (await http.get(f"{API}/rollouts/ro-0/attempts")).body["items"] == []


async def test_a_lost_lease_is_a_conflict_that_names_its_attempts(http: Http):
    started = await _body(http.post(f"{API}/rollouts", {"input": 1}))
    path = f"{API}/rollouts/{started['rollout_id']}"
    await http.post(path, {"status": "cancelled"})
    late = await http.post(f"{path}/attempts/{started['attempt']['attempt_id']}", {})
    assert (late.status, late.body["error_type"]) == (409, "LeaseLostError")
    assert late.body["attempts"] == [[started["rollout_id"], started["attempt"]["attempt_id"]]]


async def test_a_known_path_with_another_method_says_which(http: Http):
    answer = await http.get(f"{API}/queues/rollouts/dequeue")
    assert answer.status == 405
    assert "POST" in answer.body["detail"]


async def test_broken_json_is_refused(http: Http):
    answer = await http.post(f"{API}/rollouts", data=b"{broken")
    assert (answer.status, answer.body["error_type"]) == (422, "ValueError")


async def test_an_idempotency_key_makes_a_repeated_request_harmless(http: Http):
    headers = {"Idempotency-Key": "once"}
    first = await http.post(f"{API}/queues/rollouts/enqueue", {"rollouts": [REQUEST]}, headers=headers)
    again = await http.post(f"{API}/queues/rollouts/enqueue", {"rollouts": [REQUEST]}, headers=headers)
    assert first.body == again.body
    assert (await http.get(f"{API}/statistics")).body["total_rollouts"] == 1
    other = await http.post(f"{API}/queues/rollouts/enqueue", {"rollouts": [REQUEST] * 2}, headers=headers)
    assert (other.status, other.body["error_type"]) == (409, "ConflictError")


async def test_one_or_many_spans_and_numbers(http: Http):
    started = await _body(http.post(f"{API}/rollouts", {"input": 1}))
    ids = {"rollout_id": started["rollout_id"], "attempt_id": started["attempt"]["attempt_id"]}
    spans = [{**SPAN_FIELDS, **ids, "sequence_id": 0, "span_id": f"{number:016x}"} for number in range(3)]
    assert [span["sequence_id"] for span in await _body(http.post(f"{API}/spans", spans[:2]))] == [1, 2]
    assert await _body(http.post(f"{API}/spans/many", [*spans, spans[2]])) == {"sequence_ids": [None, None, 3, None]}
    assert await _body(http.post(f"{API}/spans/next", [ids, ids])) == {"sequence_ids": [4, 5]}
    found = await _body(http.post(f"{API}/spans/many/search", {"attempts": [list(ids.values())]}))
    assert [span["sequence_id"] for span in found[ids["rollout_id"]]] == [1, 2, 3]
    assert (await http.get(f"{API}/spans?rollout_id={ids['rollout_id']}&name_contains=st&limit=1")).body["total"] == 3


async def test_packed_bodies(http: Http):
    packed = gzip.compress(json.dumps({"rollouts": [REQUEST]}).encode())
    headers = {"Content-Encoding": "gzip"}
    assert (await http.post(f"{API}/queues/rollouts/enqueue", data=packed, headers=headers)).status == 201
    for body, told in ((packed[:-9], "cut off"), (b"not packed", "not gzip")):
        answer = await http.post(f"{API}/queues/rollouts/enqueue", data=body, headers=headers)
        assert (answer.status, told in answer.body["detail"]) == (422, True)
    headers = {"Content-Encoding": "br"}
    assert (await http.post(f"{API}/queues/rollouts/enqueue", data=packed, headers=headers)).status == 415


async def test_bodies_beyond_the_limit_are_refused_packed_or_not():
    server = LightningStoreServer(InMemoryLightningStore(), max_body_bytes=10_000)
    await server.start()
    body = json.dumps({"rollouts": [{"input": "x" * 20_000}]}).encode()

    async def parts() -> Any:
        for at in range(0, len(body), 1000):
            yield body[at : at + 1000]

    try:
        async with aiohttp.ClientSession() as session:
            http = Http(server.endpoint, session)
            sent = [
                await http.post(f"{API}/queues/rollouts/enqueue", data=body),
                await http.post(f"{API}/queues/rollouts/enqueue", data=parts()),
                await http.post(
                    f"{API}/queues/rollouts/enqueue", data=gzip.compress(body), headers={"Content-Encoding": "gzip"}
                ),
            ]
            assert [answer.status for answer in sent] == [413] * 3
            assert (await http.get(f"{API}/statistics")).body["total_rollouts"] == 0
    finally:
        await server.close()


async def test_web_pages_of_allowed_origins_may_call():
    server = LightningStoreServer(InMemoryLightningStore(), cors_allow_origins="http://page.test")
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            http = Http(server.endpoint, session)
            answer = await http.get(f"{API}/statistics", headers={"Origin": "http://page.test"})
            assert answer.headers["access-control-allow-origin"] == "http://page.test"
            answer = await http.get(f"{API}/statistics", headers={"Origin": "http://other.test"})
            assert "access-control-allow-origin" not in answer.headers
    finally:
        await server.close()


async def _body(answer: Any) -> Any:
    return (await answer).body
