"""Upstream's helpers on the nouns of a store."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentlightning.store.utils import rollout_status_from_attempt, scan_unhealthy_rollouts
from agentlightning.types import Attempt, AttemptedRollout, RolloutConfig

from .helpers import retrying


def attempted(
    config: RolloutConfig, age: float, heard: float | None = None, status: Any = "running"
) -> AttemptedRollout:
    now = time.time()
    attempt = Attempt(
        rollout_id="ro-1",
        attempt_id=f"at-{age}",
        sequence_id=1,
        start_time=now - age,
        status=status,
        last_heartbeat_time=None if heard is None else now - heard,
    )
    return AttemptedRollout(
        rollout_id="ro-1", input=1, start_time=now - age, status="running", config=config, attempt=attempt
    )


@pytest.mark.parametrize(
    ("status", "number", "expected"),
    [
        ("preparing", 1, "preparing"),
        ("running", 1, "running"),
        ("succeeded", 2, "succeeded"),
        ("failed", 1, "requeuing"),
        ("failed", 2, "failed"),
        ("timeout", 1, "failed"),
    ],
)
async def test_rollout_status_from_attempt(status: Any, number: int, expected: str):
    attempt = attempted(RolloutConfig(), 1, status=status).attempt.model_copy(update={"sequence_id": number})
    assert await rollout_status_from_attempt(attempt, retrying("failed", max_attempts=2)) == expected


async def test_scan_unhealthy_rollouts():
    config = RolloutConfig(timeout_seconds=100, unresponsive_seconds=50)
    late, silent, loud = attempted(config, 200, 1), attempted(config, 60), attempted(config, 80, 10)
    ended, free = attempted(config, 300, status="succeeded"), attempted(RolloutConfig(), 400)
    found = await scan_unhealthy_rollouts([late, silent, loud, ended, free])
    assert found == {("ro-1", "at-200"): "timeout", ("ro-1", "at-60"): "unresponsive"}
