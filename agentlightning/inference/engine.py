"""The native engine: continuous batching on a thread of its own.

Called by `service.py` and by trainers, which share the model's parameters with it and write them inside
`updating()`. Calls `scheduler.py`, which does the work. A step is one forward pass over the next token of every live
request and over the prompts of new ones.

On one CPU thread in float32 a request with a seed gives the same tokens and log-probs, to the bit, whatever else is
being served (`slots.py` says what that rests on).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentlightning.types import RequestError

from .sampling import Generation, SamplingParams
from .scheduler import Scheduler, fail
from .streams import Inbox, Piece
from .table import Request

DEFAULT_CONTEXT = 8192
"""Longest context where none is asked for and the model allows more."""
DEFAULT_MEMORY = 4 << 30
"""Bytes of keys and values. They take memory only when they are written."""
PROMPT = "prompt_ids"
"""`RequestError.param` of a prompt that is refused; an interface puts its own field in its place."""


class Engine:
    """Serves one model.

    Args:
        model: A causal LM from `load_model`; its parameters are read in place.
        tokenizer: Its tokenizer, for end tokens and stop strings.
        max_slots: Most requests served at once.
        max_context: Most tokens of a request, prompt and response together; `None`: what the model allows, at most
            `DEFAULT_CONTEXT`.
        max_prefill_tokens: Most prompt tokens computed in one step.
        kv_memory: Most bytes of keys and values; fewer requests are served at once where they don't fit.
        threads: CPU threads that torch uses on the engine's thread. torch keeps the number per thread; a thread that
            never set it takes the one set last anywhere. `None` leaves it alone. Above 1, what else is in the batch
            changes log-probs by about 1e-6.

    Raises:
        ConfigError: not one request fits `kv_memory`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_slots: int = 64,
        max_context: int | None = None,
        max_prompt: int | None = None,
        max_prefill_tokens: int = 8192,
        kv_memory: int = DEFAULT_MEMORY,
        threads: int | None = 1,
    ):
        self.context = _context(model, max_context)
        self.max_prompt = max_prompt
        self.version = 0
        """How often the weights were updated; each generation carries the version that sampled it."""
        self._model, self._threads = model.eval(), threads
        self._scheduler = Scheduler(
            model, tokenizer, max_live=max_slots, context=self.context, budget=max_prefill_tokens, memory=kv_memory
        )
        self.end_ids = self._scheduler.end_ids
        """Tokens that end every response."""
        self._vocabulary: int = model.get_input_embeddings().weight.shape[0]
        self._queue: deque[Request] = deque()
        self._changed = threading.Condition()
        """Guards the fields below and adding to `_queue`; notified when one changes."""
        self._running = False
        self._updating = False
        self._stale = False
        """True where the slots may hold keys and values that older weights computed."""
        self._idle = True
        """True while the engine's thread touches neither model nor slots, and no request holds one."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to serve.

        Raises:
            RuntimeError: it does already.
        """
        with self._changed:
            if self._running:
                raise RuntimeError("the engine is already running")
            self._running = True
        self._thread = threading.Thread(target=self._serve, name="agl-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving; unfinished requests fail with status 503. Does nothing where the engine is not running."""
        with self._changed:
            self._running = False
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def submit(self, prompt_ids: Sequence[int] | NDArray[Any], params: SamplingParams) -> Future[Generation]:
        """Queue a request.

        Args:
            prompt_ids: (P,) token ids.
            params: How to sample.

        Returns:
            A future whose `cancel()` ends the request at any time before it is done.

        Raises:
            RequestError: the prompt is empty, too long or holds unknown ids, or the engine is not running.
        """
        request = self._request(np.asarray(prompt_ids), params)
        self._enqueue([request])
        return request.future

    async def generate(self, prompt_ids: Sequence[int] | NDArray[Any], params: SamplingParams) -> Generation:
        """`submit` for coroutines: cancelling the task that awaits it cancels the request."""
        return await asyncio.wrap_future(self.submit(prompt_ids, params))

    async def stream(
        self, requests: Sequence[tuple[Sequence[int] | NDArray[Any], SamplingParams]]
    ) -> AsyncGenerator[tuple[int, Piece | Generation]]:
        """Queue requests and give their tokens as they are sampled. Closing the generator cancels what is unfinished.

        Args:
            requests: As for `submit`. They get the same tokens as there.

        Yields:
            Which request, by its place in `requests`, and its next tokens; at its end the whole `Generation`. A reader
            who is slower than the engine gets larger pieces.

        Raises:
            RequestError: as `submit`, before the first piece; or a request failed, which ends them all.
            ModelError: the weights diverged.
        """
        inbox = Inbox()
        queued = [self._request(np.asarray(prompt_ids), params) for prompt_ids, params in requests]
        for which, request in enumerate(queued):
            request.inbox, request.which = inbox, which
            inbox.watch(which, request.future)
        left = len(queued)
        try:
            self._enqueue(queued)
            while left:
                for which, item in await inbox.take():
                    left -= not isinstance(item, Piece)
                    yield which, item if isinstance(item, Piece) else item.result()
        finally:
            for request in queued:
                request.future.cancel()

    @contextmanager
    def updating(self) -> Generator[None]:
        """Hold the engine still while the caller writes the model's weights.

        Waits until no request is in flight; queued ones wait in turn and go on with the new weights. Keys and values
        that the old weights computed are dropped. `version` grows by 1, unless the block raises.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._updating)
            self._updating = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._idle)
            yield
            self.version += 1
        finally:
            self._model.eval()
            with self._changed:
                self._updating, self._stale = False, True
                self._changed.notify_all()

    def set_version(self, version: int) -> None:
        """Say which version the weights have, for instance those of a checkpoint."""
        with self.updating():
            self.version = version - 1

    def stats(self) -> dict[str, int]:
        """Counts since the start (requests, failed ones, steps, tokens of prompts, how many of those were shared and
        not computed, sampled tokens), and what is live and queued now."""
        now = {"live": self._scheduler.live, "queued": len(self._queue), "version": self.version}
        return self._scheduler.counts | now

    def _enqueue(self, requests: Sequence[Request]) -> None:
        with self._changed:
            if not self._running:
                raise _stopped()
            self._queue.extend(requests)
            self._changed.notify_all()

    def _request(self, prompt: NDArray[Any], params: SamplingParams) -> Request:
        if prompt.size == 0:
            raise RequestError("the prompt is empty; it needs at least one token", param=PROMPT)
        if prompt.ndim != 1 or prompt.dtype.kind not in "iu":
            raise RequestError("the prompt must be a sequence of token ids", param=PROMPT)
        if prompt.min() < 0 or prompt.max() >= self._vocabulary:
            raise RequestError(f"the prompt holds token ids outside 0 to {self._vocabulary - 1}", param=PROMPT)
        if self.max_prompt is not None and len(prompt) > self.max_prompt:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, the limit is {self.max_prompt}: shorten it, or raise "
                "the limit (`data.max_prompt_length` in training)",
                param=PROMPT,
                code="context_length_exceeded",
            )
        if len(prompt) >= self.context:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, which leaves no room in a context of {self.context}: "
                "shorten it, or give the engine a longer context if the model has one",
                param=PROMPT,
                code="context_length_exceeded",
            )
        room = self.context - len(prompt)
        limit = len(prompt) + min(room, params.max_tokens or room)
        return Request(prompt.astype(np.int32), params, limit)

    def _serve(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while self._wait_for_work():
                self._turn()
        self._scheduler.fail_all(_stopped())
        while self._queue:
            fail(self._queue.popleft(), _stopped())
        with self._changed:
            self._idle = True
            self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Sleep until there is a request to serve. False: the engine is to stop."""
        with self._changed:
            while self._running:
                if self._scheduler.live or (self._queue and not self._updating):
                    self._idle = False
                    return True
                self._idle = True
                self._changed.notify_all()
                self._changed.wait()
        return False

    def _turn(self) -> None:
        try:
            if not self._updating:
                if self._stale:
                    self._stale = False
                    self._scheduler.forget()
                self._scheduler.admit(self._queue)
            self._scheduler.step(self.version)
        except Exception as error:  # noqa: BLE001  # whoever waits for the requests gets it; the engine lives on
            failure = RequestError(f"the engine failed: {error!r}", status=500, code="engine_error")
            failure.__cause__ = error
            self._scheduler.fail_all(failure)


def _context(model: Any, wanted: int | None) -> int:
    config = model.config.get_text_config()
    limits = [config.max_position_embeddings, wanted or DEFAULT_CONTEXT]
    # A context within the attention window of a model makes every layer a plain one.
    window = getattr(config, "sliding_window", None)
    return min(limits if window is None else [*limits, window])


def _stopped() -> RequestError:
    return RequestError("the engine is not running", status=503, code="engine_stopped")
