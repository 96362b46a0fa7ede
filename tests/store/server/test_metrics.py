"""`/v1/prometheus`."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentlightning.store.client_server import LightningStoreClient
from agentlightning.types import NotFoundError

from .conftest import API, Http

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def read(http: Http) -> Samples:
    answer = await http.get("/v1/prometheus")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def test_calls_are_counted_by_operation_and_status(http: Http, client: LightningStoreClient):
    await client.enqueue_rollout("task")
    await client.dequeue_rollout("w")
    with pytest.raises(NotFoundError):
        await client.start_attempt("ro-unknown")
    samples = await read(http)
    for operation, status in (
        ("enqueue_many_rollouts", "201"),
        ("dequeue_many_rollouts", "200"),
        ("start_attempt", "404"),
    ):
        labels = (("operation", operation), ("status", status))
        assert samples["agl_store_total", labels] == 1
        assert samples["agl_store_latency_seconds_count", labels] == 1
        assert samples["agl_store_latency_seconds_bucket", (("le", "+Inf"), *labels)] == 1
    path = (("method", "POST"), ("path", f"{API}/rollouts/{{rollout_id}}/attempts"), ("status", "404"))
    assert samples["agl_http_total", path] == samples["agl_http_latency_seconds_count", path] == 1


async def test_refused_requests_are_counted_under_no_path_of_their_own(http: Http):
    await http.get("/v1/agl/secret/path")
    samples = await read(http)
    assert samples["agl_http_total", (("method", "GET"), ("path", "unknown"), ("status", "404"))] == 1


async def test_ended_rollouts_are_counted_once_by_status(http: Http, client: LightningStoreClient):
    first, second = await client.start_rollout(1), await client.start_rollout(2)
    await client.enqueue_rollout(3)
    await client.update_attempt(first.rollout_id, "latest", status="succeeded")
    assert _ended(await read(http)) == {"succeeded": 1, "failed": 0, "cancelled": 0}
    await client.update_attempt(second.rollout_id, "latest", status="failed")
    samples = await read(http)
    assert _ended(samples) == {"succeeded": 1, "failed": 1, "cancelled": 0}
    assert _ended(await read(http)) == {"succeeded": 1, "failed": 1, "cancelled": 0}
    assert samples["agl_rollouts_duration_seconds_count", (("status", "failed"),)] == 1
    assert samples["agl_queue_length", ()] == 1


def _ended(samples: Samples) -> dict[str, float]:
    return {labels[0][1]: value for (name, labels), value in samples.items() if name == "agl_rollouts_total"}
