"""Which request sits in which slot, and everything the engine knows of it, as arrays over slots.

Called by `engine.py`; calls `slots.py` to move keys and values. Plain numpy, so that a step costs a few array
operations and not a loop over requests (the interpreter is shared with the agents' threads).

Live slots are 0 .. `live - 1`, so that attention reads one contiguous piece of the store. A finished request leaves
its tokens, keys and values in a slot behind them until that slot is needed, for requests that begin the same way:
the other samples of a group, the next turn of a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agentlightning.types.tokens import Bool, Float32, Int32

from .sampling import MAX_STOPS, Generation, Likeliest, SamplingParams
from .slots import SlotPool, StepLayout
from .streams import Inbox

Int64 = NDArray[np.int64]

MIN_SHARED = 8
"""Shared tokens below which copying their keys and values isn't worth it."""


@dataclass(slots=True, eq=False)
class Request:
    """A prompt, how to sample from it, and where the answer goes."""

    prompt: Int32
    params: SamplingParams
    limit: int
    """Most tokens, prompt and response together."""
    future: Future[Generation] = field(default_factory=Future[Generation])
    inbox: Inbox | None = None
    """Where its tokens go as they are sampled; `None`: nowhere."""
    which: int = 0
    """Which of the requests that `inbox` reads this is."""
    likeliest: list[Likeliest] = field(default_factory=list[Likeliest])
    """Of the tokens so far, where `params.top_logprobs` asks for them."""


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass: what it computes, and which of its slots then get a token."""

    layout: StepLayout
    tokens: Int32
    """(T,) token ids, padding included."""
    positions: Int64
    """(T,)"""
    complete: Bool
    """(B,) true where the last known token is in this pass, false where a long prompt goes on in the next."""


class SlotTable:
    """The state of all slots; array fields are indexed by slot.

    Args:
        pool: Where keys and values are.
        slots: How many slots `pool` has.
        context: Most tokens of a slot.
        end_ids: Tokens that end every response.
    """

    def __init__(self, pool: SlotPool, slots: int, context: int, end_ids: Sequence[int]):
        self.pool = pool
        self.live = 0
        """How many slots hold an unfinished request: the first ones."""
        self.requests: list[Request | None] = [None] * slots
        self.stored = np.zeros(slots, np.int64)
        """Tokens whose keys and values are in the slot."""
        self.known = np.zeros(slots, np.int64)
        """Tokens known: prompt and response so far."""
        self.limit = np.zeros(slots, np.int64)
        self.left = np.zeros(slots, np.int64)
        """When the slot's last request left it, by a clock that counts departures; 0: never."""
        self.temperature = np.ones(slots, np.float32)
        self.top_p = np.ones(slots, np.float32)
        self.top_k = np.zeros(slots, np.int64)
        """0: all tokens."""
        self.has_stop = np.zeros(slots, np.bool_)
        """True where the request has stop strings."""
        self.streams = np.zeros(slots, np.bool_)
        """True where somebody reads the tokens as they come."""
        self.top_logprobs = np.zeros(slots, np.int64)
        """How many of the likeliest tokens the request wants to know."""
        self.stop_ids = np.full((slots, len(end_ids) + MAX_STOPS), -1, np.int32)
        self.stop_ids[:, : len(end_ids)] = end_ids
        self.tokens = np.zeros((slots, context), np.int32)
        self.logprobs = np.zeros((slots, context), np.float32)
        """Log-prob of the token at the same place; only of sampled ones."""
        self.uniforms = np.zeros((slots, context), np.float32)
        """Number in [0, 1) with which the token at the same place is drawn."""
        self._departures = 0

    def match(self, prompt: Int32) -> tuple[int, int, int]:
        """Which slot begins as a prompt does.

        Returns:
            The slot that shares most, how many stored tokens it shares, and how many some slot will share once it has
            computed what it knows.
        """
        same = self.tokens[:, : len(prompt)] == prompt
        # The last token of a prompt is always computed: the first sample is drawn from its logits.
        same = np.where(same.all(axis=1), len(prompt) - 1, same.argmin(axis=1))
        shared = np.minimum(same, self.stored)
        slot = int(shared.argmax())
        coming = np.minimum(same[: self.live], self.known[: self.live]).max(initial=0)
        return slot, int(shared[slot]), int(coming)

    def admit(self, request: Request, source: int, shared: int) -> None:
        """Give a request a slot that begins with the first `shared` tokens of slot `source`."""
        if shared < MIN_SHARED:
            shared = 0
        slot = self._choose_slot(source, shared)
        if slot != source or not shared:
            self.stored[slot] = 0
        self._swap(slot, self.live)
        source = {slot: self.live, self.live: slot}.get(source, source)
        if shared and source != self.live:
            self.pool.copy(source, self.live, shared)
        self._fill(self.live, request, shared)
        self.live += 1

    def _choose_slot(self, source: int, shared: int) -> int:
        # A conversation that goes on takes its own old slot. Whoever shares less copies, and leaves the source to its
        # own continuation.
        if source >= self.live and 0 < self.stored[source] == shared:
            return source
        return self.live + int(self.left[self.live :].argmin())

    def _fill(self, slot: int, request: Request, shared: int) -> None:
        params, prompt = request.params, request.prompt
        self.requests[slot] = request
        self.stored[slot] = shared
        self.known[slot] = len(prompt)
        self.limit[slot] = request.limit
        self.temperature[slot] = params.temperature
        self.top_p[slot] = params.top_p
        self.top_k[slot] = min(params.top_k, 2**31)
        self.has_stop[slot] = bool(params.stop)
        self.streams[slot] = request.inbox is not None
        self.top_logprobs[slot] = params.top_logprobs
        self.stop_ids[slot, -MAX_STOPS:] = -1
        self.stop_ids[slot, self.stop_ids.shape[1] - len(params.stop_token_ids) :] = params.stop_token_ids
        self.tokens[slot, : len(prompt)] = prompt
        self.uniforms[slot, len(prompt) : request.limit] = params.uniforms(request.limit - len(prompt))

    def release(self, slot: int, *, keep: bool = True) -> None:
        """Take a request out of its slot; another live request may move to it. `keep`: others may share its tokens."""
        self.live -= 1
        self._departures += 1
        self.requests[slot] = None
        self.left[slot] = self._departures
        if not keep:
            self.stored[slot] = 0
            self.pool.clear(slot)
        self._swap(slot, self.live)

    def forget(self) -> None:
        """Drop what finished requests left."""
        self.stored[self.live :] = 0
        self.left[self.live :] = 0

    def _swap(self, one: int, other: int) -> None:
        if one == other:
            return
        self.pool.swap(one, other, int(self.stored[one]), int(self.stored[other]))
        for array in (
            self.stored, self.known, self.limit, self.left, self.temperature, self.top_p, self.top_k, self.has_stop,
            self.streams, self.top_logprobs, self.stop_ids, self.tokens, self.logprobs, self.uniforms,
        ):  # fmt: skip
            array[[one, other]] = array[[other, one]]
        self.requests[one], self.requests[other] = self.requests[other], self.requests[one]

    def plan(self, budget: int) -> Step:
        """What the next forward pass computes: the last known token of each live slot, and what must go before it.

        Args:
            budget: Most tokens to compute beside one for each slot.
        """
        live = self.live
        before = self.known[:live] - self.stored[:live] - 1
        taken = np.clip(budget - (before.cumsum() - before), 0, before)
        slots, positions, runs = np.arange(live), self.stored[:live] + taken, list[tuple[int, int, int]]()
        if taken.any():
            filling = taken.nonzero()[0]
            counts = taken[filling]
            ends = live + counts.cumsum()
            owners = np.repeat(filling, counts)
            offsets = np.arange(live, ends[-1]) - np.repeat(ends - counts, counts)
            slots = np.concatenate([slots, owners])
            positions = np.concatenate([positions, self.stored[owners] + offsets])
            runs = list(zip(filling.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True))
        layout = StepLayout(live, slots, positions, runs)
        tokens, places = np.zeros(layout.tokens, np.int32), np.zeros(layout.tokens, np.int64)
        tokens[: len(slots)], places[: len(slots)] = self.tokens[slots, positions], positions
        return Step(layout, tokens, places, taken == before)

    def advance(self, step: Step, chosen: Int32, logprobs: Float32) -> Int64:
        """Take in the sampled tokens of a step and their log-probs, both (B,). Returns the slots that got a token."""
        live = self.live
        self.stored[:live] = step.layout.positions[:live] + 1
        grown = step.complete.nonzero()[0]
        at = self.known[grown]
        self.tokens[grown, at] = chosen[grown]
        self.logprobs[grown, at] = logprobs[grown]
        self.known[grown] += 1
        return grown

    def sampled(self, slot: int, prompt: int) -> tuple[Int32, Float32]:
        """(R,) the tokens sampled so far after a prompt of `prompt` tokens, and their log-probs."""
        piece = slice(prompt, int(self.known[slot]))
        return self.tokens[slot, piece].copy(), self.logprobs[slot, piece].copy()
