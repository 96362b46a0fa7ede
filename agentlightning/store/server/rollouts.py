"""Handlers of rollouts, attempts and the queue. Called by `api` through `routes`."""

from __future__ import annotations

from typing import Any

from agentlightning.types import Attempt, AttemptedRollout, NotFoundError, Rollout

from ..base import LightningStore
from ..ledger_queries import rollouts_query
from ..wire import Page, dump, dump_attempt, dump_list, dump_page, dump_rollout
from . import bodies
from .call import Call, Route
from .spliced import of_rows, rollout_page


async def enqueue(store: LightningStore, call: Call) -> bytes:
    body = call.read(bodies.EnqueueRollouts)
    return dump_list(await store.enqueue_many_rollouts(body.rollouts), dump_rollout)


async def dequeue(store: LightningStore, call: Call) -> bytes:
    body = call.read(bodies.DequeueRollouts)
    if body.timeout:
        taken = await call.wait(store.dequeue_many_rollouts(body.limit, body.worker_id, body.timeout))
    else:
        taken = await store.dequeue_many_rollouts(body.limit, body.worker_id)
    return dump_list(taken, dump_rollout)


async def release(store: LightningStore, call: Call) -> bytes:
    return dump({"released": await store.release_rollouts(call.read(bodies.ReleaseRollouts).key)})


async def start_rollout(store: LightningStore, call: Call) -> bytes:
    body = call.read(bodies.StartRollout)
    return dump_rollout(
        await store.start_rollout(
            body.input, body.mode, body.resources_id, body.config, body.metadata, worker_id=body.worker_id
        )
    )


async def start_attempt(store: LightningStore, call: Call) -> bytes:
    return dump_rollout(await store.start_attempt(call.params[0], call.read(bodies.StartAttempt).worker_id))


async def update_rollout(store: LightningStore, call: Call) -> bytes:
    changes = call.read(bodies.UpdateRollout).given(*bodies.UpdateRollout.model_fields)
    return dump_rollout(await store.update_rollout(call.params[0], **changes))


async def update_attempt(store: LightningStore, call: Call) -> bytes:
    changes = call.read(bodies.UpdateAttempt).given(*bodies.UpdateAttempt.model_fields)
    rollout_id, attempt_id = call.params
    return dump_attempt(await store.update_attempt(rollout_id, attempt_id, **changes))


async def get_rollout(store: LightningStore, call: Call) -> bytes:
    found = await store.get_rollout_by_id(call.params[0])
    if found is None:
        raise NotFoundError(f"`rollout_id` {call.params[0]!r} is not in the store")
    return dump_rollout(found)


async def get_latest_attempt(store: LightningStore, call: Call) -> bytes:
    found = await store.get_latest_attempt(call.params[0])
    if found is None:
        raise NotFoundError(f"rollout {call.params[0]!r} is not in the store, or has no attempt yet")
    return dump_attempt(found)


async def _query_rollouts(store: LightningStore, query: bodies.QueryRollouts) -> bytes:
    if home := of_rows(store, "query_rollouts"):
        wanted = rollouts_query(**query.__dict__)
        return rollout_page(wanted, *await home.rollout_rows(wanted))
    return dump_page(await store.query_rollouts(**query.__dict__), dump_rollout)


async def query_rollouts(store: LightningStore, call: Call) -> bytes:
    return await _query_rollouts(store, call.read_query(bodies.QueryRollouts))


async def search_rollouts(store: LightningStore, call: Call) -> bytes:
    return await _query_rollouts(store, call.read(bodies.QueryRollouts))


async def _query_attempts(store: LightningStore, rollout_id: str, query: bodies.QueryAttempts) -> bytes:
    return dump_page(await store.query_attempts(rollout_id, **query.__dict__), dump_attempt)


async def query_attempts(store: LightningStore, call: Call) -> bytes:
    return await _query_attempts(store, call.params[0], call.read_query(bodies.QueryAttempts))


async def search_attempts(store: LightningStore, call: Call) -> bytes:
    return await _query_attempts(store, call.params[0], call.read(bodies.QueryAttempts))


async def wait_for_rollouts(store: LightningStore, call: Call) -> bytes:
    body = call.read(bodies.WaitForRollouts)
    work = store.wait_for_rollouts(rollout_ids=body.rollout_ids, timeout=body.timeout)
    return dump_list(await (work if body.timeout == 0 else call.wait(work)), dump_rollout)


async def expire_attempts(store: LightningStore, call: Call) -> bytes:
    return dump_list(await store.expire_attempts(call.read(bodies.ExpireAttempts).now), dump_attempt)


async def trim(store: LightningStore, call: Call) -> bytes:
    return dump({"dropped": await store.trim(call.read(bodies.TrimRollouts).retention)})


def routes(prefix: str) -> list[Route]:
    """The table of these handlers."""
    queue, one = f"{prefix}/queues/rollouts", f"{prefix}/rollouts/{{rollout_id}}"
    found: Any = AttemptedRollout | Rollout
    page = Page[found]
    return [
        Route("POST", f"{queue}/enqueue", "enqueue_many_rollouts", enqueue, bodies.EnqueueRollouts,
              answer=list[Rollout], status=201),
        Route("POST", f"{queue}/dequeue", "dequeue_many_rollouts", dequeue, bodies.DequeueRollouts,
              answer=list[AttemptedRollout]),
        Route("POST", f"{queue}/release", "release_rollouts", release, bodies.ReleaseRollouts, answer=bodies.Released),
        Route("POST", f"{prefix}/rollouts", "start_rollout", start_rollout, bodies.StartRollout,
              answer=AttemptedRollout, status=201),
        Route("GET", f"{prefix}/rollouts", "query_rollouts", query_rollouts, query=bodies.QueryRollouts, answer=page),
        Route("POST", f"{prefix}/rollouts/search", "search_rollouts", search_rollouts, bodies.QueryRollouts,
              answer=page),
        Route("POST", f"{prefix}/rollouts/trim", "trim", trim, bodies.TrimRollouts, answer=bodies.Trimmed),
        Route("GET", one, "get_rollout_by_id", get_rollout, answer=found),
        Route("POST", one, "update_rollout", update_rollout, bodies.UpdateRollout, answer=found),
        Route("POST", f"{one}/attempts", "start_attempt", start_attempt, bodies.StartAttempt,
              answer=AttemptedRollout, status=201),
        Route("GET", f"{one}/attempts", "query_attempts", query_attempts, query=bodies.QueryAttempts,
              answer=Page[Attempt]),
        Route("POST", f"{one}/attempts/search", "search_attempts", search_attempts, bodies.QueryAttempts,
              answer=Page[Attempt]),
        Route("GET", f"{one}/attempts/latest", "get_latest_attempt", get_latest_attempt, answer=Attempt),
        Route("POST", f"{one}/attempts/{{attempt_id}}", "update_attempt", update_attempt, bodies.UpdateAttempt,
              answer=Attempt),
        Route("POST", f"{prefix}/attempts/expire", "expire_attempts", expire_attempts, bodies.ExpireAttempts,
              answer=list[Attempt]),
        Route("POST", f"{prefix}/waits/rollouts", "wait_for_rollouts", wait_for_rollouts, bodies.WaitForRollouts,
              answer=list[found]),
    ]  # fmt: skip
