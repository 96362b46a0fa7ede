"""Answers calls: finds the route, runs its handler under the call's idempotency key, turns errors into answers.

Called by `app` for each HTTP request, and by its own batch route for each frame of one.
"""

from __future__ import annotations

import asyncio
import time

from .. import batch
from ..base import LightningStore
from ..replies import keyed
from .call import Answer, Call, ClientGone, Route
from .errors import answer_of
from .metrics import Metrics
from .router import Router
from .routes import all_routes

MAX_FRAMES = 1000
"""Calls in one batch."""


class Api:
    """The operations of one store.

    Args:
        store: What the handlers work on.
        metrics: Counts the calls.
    """

    def __init__(self, store: LightningStore, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self.routes = all_routes(metrics, self._batch)
        self.router = Router(self.routes)

    async def answer(self, route: Route, call: Call) -> Answer:
        """What to send back. Raises `ClientGone` when nobody is there any more."""
        start = time.perf_counter()
        status = 499  # unless we get to an answer, the client went away
        try:
            with keyed(call.key):
                result = await route.handle(self._store, call)
            answer = result if isinstance(result, Answer) else Answer(route.status, result)
            status = answer.status
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001  # the client is told what happened
            answer = answer_of(error)
            status = answer.status
        finally:
            self._metrics.observe(route, status, time.perf_counter() - start)
        return answer

    async def _batch(self, store: LightningStore, call: Call) -> Answer:
        frames = list(batch.read_calls(call.body))
        if len(frames) > MAX_FRAMES:
            raise ValueError(f"a batch has {len(frames)} calls; send {MAX_FRAMES} at most")
        # At once, so that a home that commits in groups can do so.
        answers = await asyncio.gather(*map(self._answer_frame, frames))
        return Answer(200, batch.write_answers((status, body) for status, body, _ in answers), batch.CONTENT_TYPE)

    async def _answer_frame(self, frame: batch.Frame) -> Answer:
        path, _, query = frame.path.partition("?")
        try:
            route, params = self.router.find(frame.method, path)
            if route.path == batch.PATH:
                raise ValueError("a batch can't hold another batch")
        except (LookupError, ValueError) as error:
            return answer_of(error)
        return await self.answer(route, Call(params, query.encode(), frame.body, frame.key))
