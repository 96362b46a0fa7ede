"""What several tests of the store share."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentlightning.store import LightningStore
from agentlightning.store.ledger import Ledger
from agentlightning.types import LLM, AttemptedRollout, EnqueueRolloutRequest, RolloutConfig, Span, TokenCall

LLM_RESOURCES = {"main_llm": LLM(endpoint="http://localhost:1/v1", model="tiny")}


def span_of(rollout: AttemptedRollout, name: str = "work", **fields: Any) -> Span:
    """A span of the rollout's attempt."""
    return Span.create(name, rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id, **fields)


def token_call(prompt: Sequence[int] = (1, 2, 3), response: Sequence[int] = (4, 5)) -> TokenCall:
    return TokenCall(
        model="tiny",
        prompt_ids=np.array(prompt, np.int32),
        response_ids=np.array(response, np.int32),
        logprobs=np.linspace(-1.5, -0.25, len(response), dtype=np.float32),
        finish_reason="stop",
        weights_version=7,
        temperature=0.75,
    )


async def enqueue(store: LightningStore, count: int, **fields: Any) -> list[str]:
    """Rollout ids of `count` queued rollouts with the inputs 0, 1, ..."""
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i, **fields) for i in range(count)])
    return [rollout.rollout_id for rollout in rollouts]


async def taken(store: LightningStore, worker_id: str | None = None) -> AttemptedRollout:
    rollout = await store.dequeue_rollout(worker_id)
    assert rollout is not None
    return rollout


async def status_of(store: LightningStore, rollout_id: str) -> str:
    rollout = await store.get_rollout_by_id(rollout_id)
    assert rollout is not None
    return rollout.status


def retrying(*conditions: Any, max_attempts: int = 2, **fields: Any) -> RolloutConfig:
    return RolloutConfig(retry_condition=list(conditions), max_attempts=max_attempts, **fields)


class Hold:
    """An operation that keeps the writer busy until released."""

    def __init__(self) -> None:
        self.started, self.release = threading.Event(), threading.Event()

    def __call__(self, ledger: Ledger) -> None:
        self.started.set()
        self.release.wait()


def start_writer(url_or_path: str) -> subprocess.Popen[str]:
    """A process that writes until killed, and prints what it was answered; `check_answered` reads that."""
    script = Path(__file__).with_name("writer_process.py")
    return subprocess.Popen([sys.executable, str(script), url_or_path], stdout=subprocess.PIPE, text=True)


async def check_answered(store: LightningStore, answered: Sequence[Sequence[str]]) -> None:
    """All that a writer process was answered is in the store."""
    assert {"enqueued", "taken", "span"} <= {line[0] for line in answered}
    stored = {rollout.rollout_id: rollout for rollout in await store.query_rollouts()}
    for what, rollout_id, *detail in answered:
        rollout = stored[rollout_id]
        if what == "enqueued":
            continue
        assert isinstance(rollout, AttemptedRollout)
        if what == "taken":
            assert rollout.attempt.attempt_id == detail[0]
        if what == "span":
            (span,) = await store.query_spans(rollout_id, span_id=detail[0])
            assert span.token_call is not None
        if what == "succeeded":
            assert (rollout.status, rollout.attempt.status) == ("succeeded", "succeeded")
