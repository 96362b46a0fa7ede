"""What happens to one call: who asks, what is forced on it, which backend answers, and that it is on record.

Called by `app` in the gateway's event loop. The span of a call is in the store before the agent gets its answer, so an
attempt that went on from an answer never lacks the call that gave it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from agentlightning.store.base import LightningStore
from agentlightning.types import ChatReply, LeaseLostError, NotFoundError, RequestError, Span

from .attempts import Attempts, AttemptState, call_seed
from .body import force_sampling, parse_body
from .capture import CallRecord
from .routes import ModelRoutes

logger = logging.getLogger(__name__)


class Gateway:
    """Serves chat completions.

    Args:
        routes: Model names and their backends.
        store: Where attempts are looked up and spans go; `None`: only calls without ids in their path are served.
    """

    def __init__(self, routes: ModelRoutes, store: LightningStore | None = None) -> None:
        self.routes = routes
        self.store = store
        self.sampling_parameters: dict[str, dict[str, Any]] = {}
        """By rollout mode: what is put over the agent's own parameters."""
        self._attempts = Attempts()

    def use_store(self, store: LightningStore | None) -> None:
        """Take another store; what is known of attempts belongs to the old one."""
        self.store = store
        self._attempts = Attempts()

    async def chat(self, raw: bytes, ids: tuple[str, str] | None) -> bytes:
        """Answer one request.

        Args:
            raw: The request's JSON.
            ids: (rollout id, attempt id) from the path; `None`: nobody's call, passed on and not recorded.

        Returns:
            The answer's JSON.

        Raises:
            RequestError: what the agent gets instead.
        """
        if ids is None:
            body = parse_body(raw)
            return orjson.dumps((await self._ask(body, None)).response)
        if self.store is None:
            raise RequestError("the gateway has no store to record the call in; give `LLMProxy` one", status=503)
        attempt = await self._attempts.get(self.store, *ids)
        number = attempt.begin_call()
        record = CallRecord(attempt, number)
        try:
            body = self._prepare(raw, attempt, number)
            record.request(body)
            reply = await self._ask(body, attempt.rollout_id)
            spans = record.answered(reply)
        except RequestError as error:
            await self._store(record.failed(error.message))
            raise
        except asyncio.CancelledError:
            await self._store(record.failed("cancelled: the client went away, or the gateway was stopped"))
            raise
        await self._store(spans)
        return orjson.dumps(reply.response)

    def _prepare(self, raw: bytes, attempt: AttemptState, number: int) -> dict[str, Any]:
        body = parse_body(raw)
        force_sampling(body, self.sampling_parameters.get(attempt.mode or "", {}))
        if attempt.seed is not None:  # over the agent's own, which would make all samples of a task the same
            body["seed"] = call_seed(attempt.seed, number)
        return body

    async def _ask(self, body: dict[str, Any], rollout_id: str | None) -> ChatReply:
        backend = self.routes.find(body["model"], rollout_id)
        try:
            return await backend.chat(body)
        except RequestError:
            raise
        except Exception as error:
            logger.exception("the backend of model %r failed", body["model"])
            raise RequestError(
                f"the backend of `{body['model']}` failed: {type(error).__name__}: {error}", status=500
            ) from error

    async def _store(self, spans: list[Span]) -> None:
        assert self.store is not None
        try:
            await self.store.add_many_spans(spans)
        except LeaseLostError as error:
            # Forgotten, so that its next call is refused before a backend works for it.
            self._attempts.forget(spans[0].rollout_id, spans[0].attempt_id)
            raise RequestError(str(error), status=409, code="stale_attempt") from error
        except NotFoundError as error:
            self._attempts.forget(spans[0].rollout_id, spans[0].attempt_id)
            raise RequestError(f"{error}; stop this agent", status=404, code="unknown_rollout") from error
        except Exception as error:
            logger.exception("no span for a call of attempt %s", spans[0].attempt_id)
            raise RequestError(
                f"the store could not record this call, so its answer is withheld: {type(error).__name__}: {error}",
                status=503,
                code="not_recorded",
            ) from error
