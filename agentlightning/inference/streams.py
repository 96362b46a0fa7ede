"""Tokens on their way out while a request is being served: from the engine's thread to whoever reads them.

`scheduler.py` hands over what a step sampled (`hand_over`), `engine.py` reads it in an event loop (`Inbox`). A step
wakes each loop once, however many requests it streams to; requests that nobody streams cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from .sampling import Generation, Likeliest


@dataclass(slots=True)
class Piece:
    """Tokens of one response, one or more, in the order in which they were sampled."""

    weights_version: int
    """Of the weights that sampled them: the same in all pieces of a response."""
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    """As in `Generation.logprobs`."""
    likeliest: list[Likeliest] = field(default_factory=list[Likeliest])
    """As in `Generation.likeliest`: one for each token, or none at all."""

    @classmethod
    def whole(cls, generation: Generation) -> Piece:
        """All tokens of a response at once."""
        tokens, logprobs = generation.token_ids.tolist(), generation.logprobs.tolist()
        return cls(generation.weights_version, tokens, logprobs, list(generation.likeliest))


@dataclass(frozen=True, slots=True)
class Sampled:
    """One token of one request, as a step hands it over."""

    inbox: Inbox
    which: int
    token: int
    logprob: float
    likeliest: Likeliest | None


class Inbox:
    """What arrives for the reader of one stream, which may be of several requests. Made in the reader's event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._pieces: dict[int, Piece] = {}
        self._ended: list[tuple[int, Future[Generation]]] = []

    def watch(self, which: int, future: Future[Generation]) -> None:
        """Learn when a request is done, after its last token."""

        def done(future: Future[Generation]) -> None:
            # Cancelled ones have no reader any more, and perhaps no loop.
            if not future.cancelled():
                self.loop.call_soon_threadsafe(self._end, which, future)

        future.add_done_callback(done)

    async def take(self) -> list[tuple[int, Piece | Future[Generation]]]:
        """What came since the last time, at least one thing: the pieces first, then the requests that are done."""
        await self._news.wait()
        self._news.clear()
        pieces, ended = self._pieces, self._ended
        self._pieces, self._ended = {}, []
        return [*pieces.items(), *ended]

    def add(self, sampled: Sampled, version: int) -> None:
        """Take in a token. In the loop."""
        piece = self._pieces.get(sampled.which)
        if piece is None:
            piece = self._pieces[sampled.which] = Piece(version)
        piece.token_ids.append(sampled.token)
        piece.logprobs.append(sampled.logprob)
        if sampled.likeliest is not None:
            piece.likeliest.append(sampled.likeliest)
        self._news.set()

    def _end(self, which: int, future: Future[Generation]) -> None:
        self._ended.append((which, future))
        self._news.set()


def hand_over(sampled: Sequence[Sampled], version: int) -> list[Inbox]:
    """Send tokens to their readers, from the engine's thread.

    Args:
        sampled: One token of each request that is streamed and got one in this step.
        version: Of the weights.

    Returns:
        Inboxes that nobody will read any more, because their loop is closed.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Sampled]] = {}
    for one in sampled:
        by_loop.setdefault(one.inbox.loop, []).append(one)
    dead: list[Inbox] = []
    for loop, batch in by_loop.items():
        try:
            loop.call_soon_threadsafe(_arrive, batch, version)
        except RuntimeError:
            dead += [one.inbox for one in batch]
    return dead


def _arrive(batch: list[Sampled], version: int) -> None:
    for one in batch:
        one.inbox.add(one, version)
