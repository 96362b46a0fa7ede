"""What happens to one call: who asks, what is forced on it, which backend answers, and that it is on record.

Called by `app` in the gateway's event loop. The span of a call is durable before the agent gets its answer, or the end
of its stream, so an attempt that went on from an answer never lacks the call that gave it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import orjson

from agentlightning.store.base import LightningStore
from agentlightning.tracer import export
from agentlightning.types import ChatReply, LeaseLostError, NotFoundError, RequestError, Span, StoreClosedError

from .attempts import Attempts, AttemptState, call_seed
from .backend import Json
from .body import force_sampling, parse_body
from .capture import CallRecord
from .dialects import CHAT, TRANSLATED, Interface, Translated, well_formed
from .ledger import Ledger
from .pool import ModelPool
from .recorder import CLOSE_S, Recorder
from .routes import ModelRoutes
from .streams import StreamWriter

logger = logging.getLogger(__name__)

COMPLETE_WAIT_S = 20.0
"""Longest time that `Gateway.complete` waits before it asks to be asked again."""


class Answer(Protocol):
    """Where an answer goes."""

    async def whole(self, data: bytes) -> None:
        """The whole answer, as JSON."""
        ...

    async def event(self, data: bytes) -> None:
        """The next event of a streamed answer."""
        ...


@dataclass(slots=True)
class _Call:
    """One call on its way: as the agent asked, and as the backend is asked."""

    interface: Interface
    body: Json
    spoken: Interface
    """The agent's own interface, or `CHAT` where the backend does not speak that."""
    sent: Json
    pool: ModelPool
    rollout_id: str | None
    record: CallRecord | None
    """`None`: the call belongs to no attempt."""

    @property
    def translated(self) -> Translated | None:
        """The agent's interface, where answers have to be written in it."""
        return None if self.spoken is self.interface else TRANSLATED[self.interface.name]


class Gateway:
    """Serves calls.

    Args:
        routes: Model names and who serves them.
        store: Where attempts are looked up and spans go; `None`: only calls without ids in their path are served.
        spool_dir: Where spans wait while the store can't be reached, see `Recorder`.
    """

    def __init__(self, routes: ModelRoutes, store: LightningStore | None = None, spool_dir: Path | None = None) -> None:
        self.routes = routes
        self.ledger = Ledger(routes.prices)
        self.sampling_parameters: dict[str, dict[str, Any]] = {}
        """By rollout mode, or by `metadata["sampling"]` of a rollout: what is put over the agent's own parameters."""
        self.store = store
        self._spool_dir = spool_dir
        self._attempts = Attempts()
        self._recorder: Recorder | None = None

    def open(self) -> None:
        """Begin anew: nothing is known of attempts, and the spool belongs to this gateway.

        Raises:
            ConfigError: another gateway has `spool_dir`.
        """
        export.configure()
        self._attempts = Attempts()
        earlier = self._recorder
        self._recorder = None if self.store is None else Recorder(self.store, self._spool_dir, earlier=earlier)

    def deliver(self) -> None:
        """Bring what an earlier gateway left in the spool to the store; in the event loop that serves."""
        if self._recorder is not None:
            self._recorder.start()

    async def serve(self, interface: Interface, raw: bytes, ids: tuple[str, str] | None, answer: Answer) -> None:
        """Answer one request.

        Args:
            interface: What it is written in.
            raw: The request's JSON.
            ids: (rollout id, attempt id) from the path; `None`: nobody's call, passed on and not recorded.
            answer: Where the answer goes.

        Raises:
            RequestError: what the agent gets instead, also after some events.
        """
        if ids is None:
            await self._run(interface, raw, answer)
            return
        attempt = await self._attempt(ids)
        with attempt.calling() as number:
            record = CallRecord(attempt, number, interface.name)
            try:
                await self._run(interface, raw, answer, attempt, record)
            except RequestError as error:
                if not record.done:
                    await self._record(record.failed(str(error.status), error.message))
                raise
            except asyncio.CancelledError:
                if not record.done:
                    await self._record(record.failed("cancelled", "the client went away, or the gateway was stopped"))
                raise

    async def complete(self, ids: tuple[str, str]) -> int:
        """Take no more calls of an attempt whose agent has ended; its number of calls, once all are in the store.

        Raises:
            RequestError: 503 if that takes longer than `COMPLETE_WAIT_S`; 422 if the store has refused a call that was
                answered, or an earlier gateway may have left calls elsewhere; as `Attempts.get` if nothing is known of
                the attempt.
        """
        attempt = await self._attempt(ids)
        assert self._recorder is not None
        try:
            covered = await self._recorder.covers(attempt.start_time)
        except Exception as error:
            raise RequestError(f"the store could not be asked for its time: {error}", status=503) from error
        if not covered:
            raise RequestError(
                f"attempt `{ids[1]}` began before this gateway, and calls that an earlier one answered may wait in its"
                " spool; start the gateway with the `spool_dir` of the earlier one",
                status=422,
                code="earlier_gateway",
            )
        try:
            async with asyncio.timeout(COMPLETE_WAIT_S):
                await attempt.finish()
                await self._recorder.settled(*ids, timeout=COMPLETE_WAIT_S)
        except TimeoutError as error:
            raise RequestError(
                f"{attempt.running} calls of attempt `{ids[1]}` run, or their spans wait for the store; ask again",
                status=503,
                code="not_settled",
            ) from error
        return attempt.calls

    async def close(self) -> None:
        """Write what waits, as far as the store takes it, and close the connections to backends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):  # calls that were cancelled by now have yet to be recorded as such
                await self._attempts.finish()
        if self._recorder is not None:
            await self._recorder.close()
        await self.routes.close()

    async def _attempt(self, ids: tuple[str, str]) -> AttemptState:
        """The attempt. Raises as `Attempts.get`, and 503 while calls that an earlier gateway took are not delivered."""
        store = self._home()
        if self._recorder is not None and self._attempts.find(*ids) is None:
            try:  # they count: the numbers of its calls, and its seeds, go on from them
                await self._recorder.settled(*ids, timeout=COMPLETE_WAIT_S)
            except TimeoutError as error:
                raise RequestError(str(error), status=503, code="not_settled") from error
        return await self._attempts.get(store, *ids)

    def _home(self) -> LightningStore:
        if self.store is None:
            raise RequestError("the gateway has no store to record the call in; give `LLMProxy` one", status=503)
        return self.store

    def _call(self, interface: Interface, raw: bytes, attempt: AttemptState | None, record: CallRecord | None) -> _Call:
        body = parse_body(raw, interface)
        pool = self.routes.find(body["model"])
        spoken, sent = _for_backend(interface, body, pool)
        if attempt is not None and interface.name != "embeddings":
            force_sampling(sent, self.sampling_parameters.get(attempt.sampling, {}), spoken.limits)
            if attempt.seed is not None and record is not None and spoken.name in ("chat", "completions"):
                # Over the agent's own, which would make all samples of a task the same.
                sent["seed"] = call_seed(attempt.seed, record.number)
        if record is not None:
            record.request(_as_chat(spoken, sent))
        return _Call(interface, body, spoken, sent, pool, attempt.rollout_id if attempt else None, record)

    async def _run(
        self,
        interface: Interface,
        raw: bytes,
        answer: Answer,
        attempt: AttemptState | None = None,
        record: CallRecord | None = None,
    ) -> None:
        try:
            call = self._call(interface, raw, attempt, record)
            await (self._stream if call.sent.get("stream") else self._whole)(call, answer)
        except RequestError:
            raise
        except Exception as error:
            logger.exception("a call of %s failed", interface.path)
            raise RequestError(f"the call failed: {type(error).__name__}: {error}", status=500) from error

    async def _whole(self, call: _Call, answer: Answer) -> None:
        reply = await call.pool.call(call.spoken.name, call.sent, rollout_id=call.rollout_id)
        translated = call.translated
        with well_formed():
            written = reply.response if translated is None else translated.from_chat(call.body, reply.response)
            data = orjson.dumps(written)
        await self._answered(call, reply)
        await answer.whole(data)

    async def _stream(self, call: _Call, answer: Answer) -> None:
        translated = call.translated
        events = StreamWriter(call.interface, None if translated is None else translated.translator(call.body))
        reply: ChatReply | None = None
        async with aclosing(call.pool.stream(call.spoken.name, call.sent, rollout_id=call.rollout_id)) as parts:
            async for part in parts:
                if isinstance(part, ChatReply):
                    reply = part
                elif data := events.feed(part):
                    if call.record is not None:
                        call.record.first_chunk()
                    await answer.event(data)
        if reply is None:
            raise RequestError("the backend's stream ended without an answer", status=502)
        end = events.end(reply.response)
        await self._answered(call, reply)
        await answer.event(end)

    async def _answered(self, call: _Call, reply: ChatReply) -> None:
        """See that a call is durable, and count it."""
        if call.record is None:
            return
        with well_formed():
            response = call.spoken.answer_to_chat(reply.response)
            spans = call.record.answered(response, reply.calls)
        assert call.rollout_id is not None
        usage: Any = response.get("usage")
        self.ledger.add(call.rollout_id, call.body["model"], cast(Json, usage) if isinstance(usage, dict) else {})
        await self._record(spans)

    async def _record(self, spans: list[Span]) -> None:
        try:
            if self._recorder is None:
                raise StoreClosedError("the gateway has stopped")
            await self._recorder.record(spans)
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
        export.send(spans)


def _for_backend(interface: Interface, body: Json, pool: ModelPool) -> tuple[Interface, Json]:
    """What the backend is asked in, and what it is asked: the agent's own request where it speaks that."""
    if interface.name in pool.speaks:
        return interface, dict(body)
    if (translated := TRANSLATED.get(interface.name)) is not None and CHAT.name in pool.speaks:
        return CHAT, translated.to_chat(body)
    raise RequestError(
        f"model `{body['model']}` serves no {interface.name}; its backend speaks {', '.join(sorted(pool.speaks))}",
        status=404,
        code="unsupported_endpoint",
    )


def _as_chat(interface: Interface, body: Json) -> Json:
    """The request as a chat completion for the record; as it is where it can't be one."""
    if (translated := TRANSLATED.get(interface.name)) is None:
        return body
    try:
        return translated.to_chat(body)
    except RequestError:  # its backend speaks the interface, and may do more than chat completions can
        return body
