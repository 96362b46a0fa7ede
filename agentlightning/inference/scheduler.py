"""What the engine's thread does, one step at a time: admit requests, run the model, sample, settle what is finished.

Called by `engine.py` on its thread only; calls `table.py`, `slots.py`, `attention.py`, `sampling.py` and `streams.py`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch

from agentlightning.types import AgentLightningError, ConfigError, ModelError
from agentlightning.types.tokens import Float32, Int32

from .attention import lm_logits, run_packed
from .sampling import Generation, likeliest, sample
from .slots import ROW_MULTIPLE, SlotContext, SlotPool, round_up
from .streams import Sampled, hand_over
from .table import Int64, Request, SlotTable, Step

WORTH_WAITING = 16
"""A request waits a step where another is about to compute at least this many more tokens that it can share."""
DIVERGED = "the model's output is not a number"
"""First words of the error of a request whose logits are not finite."""


class Scheduler:
    """Serves requests from a queue.

    Args:
        model: A causal LM from `load_model`.
        tokenizer: Its tokenizer.
        max_live: Most requests at once.
        context: Most tokens of a request.
        budget: Most prompt tokens computed in one step.
        memory: Most bytes of keys and values.

    Raises:
        ConfigError: not one request fits `memory`.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_live: int, context: int, budget: int, memory: int):
        self._model, self._tokenizer, self._budget = model, tokenizer, budget
        # As many slots again as requests at once: what finished requests leave is there when their next turn comes.
        self._pool, slots = make_pool(model, context, 2 * max_live, memory)
        self._max_live = min(max_live, slots)
        self.end_ids = end_token_ids(model, tokenizer)
        self._table = SlotTable(self._pool, slots, context, self.end_ids)
        self.counts = dict.fromkeys(("requests", "failed", "steps", "prompt_tokens", "shared_tokens", "tokens"), 0)

    @property
    def live(self) -> int:
        """How many requests hold a slot."""
        return self._table.live

    def admit(self, queue: deque[Request]) -> None:
        """Move requests from the queue to slots while there are free ones."""
        waiting: list[Request] = []
        while queue and self._table.live < self._max_live:
            request = queue.popleft()
            if request.future.cancelled():
                continue
            source, shared, coming = self._table.match(request.prompt)
            if coming - shared >= WORTH_WAITING:
                waiting.append(request)
                continue
            self._table.admit(request, source, shared)
            self.counts["requests"] += 1
            self.counts["prompt_tokens"] += len(request.prompt)
            self.counts["shared_tokens"] += int(self._table.stored[self._table.live - 1])
        queue.extendleft(reversed(waiting))

    def step(self, version: int) -> None:
        """Give every live request its next token; settle the finished ones.

        Args:
            version: The weights' version, for the generations that finish.
        """
        self._drop_cancelled()
        if not self._table.live:
            return
        step = self._table.plan(self._budget)
        chosen, logprobs = self._compute(step)
        grown = self._table.advance(step, chosen, logprobs)
        self.counts["steps"] += 1
        self.counts["tokens"] += len(grown)
        self._settle(grown, version)

    def _compute(self, step: Step) -> tuple[Int32, Float32]:
        """Run the model and draw a token for each live slot: (B,) ids and log-probs."""
        rows, table = step.layout.rows, self._table
        padded = round_up(rows, ROW_MULTIPLE)
        device = self._pool.kv.device
        tokens, positions = (torch.from_numpy(x).to(device) for x in (step.tokens, step.positions))
        hidden = run_packed(self._model, tokens, positions, SlotContext(self._pool, step.layout))
        logits = lm_logits(self._model, hidden[:padded]).float()
        temperature, top_p, uniform = np.ones((3, padded), np.float32)
        temperature[:rows], top_p[:rows] = table.temperature[:rows], table.top_p[:rows]
        top_k = np.zeros(padded, np.int64)
        top_k[:rows] = table.top_k[:rows]
        uniform[:rows] = table.uniforms[np.arange(rows), table.known[:rows]]
        settings = (torch.from_numpy(x).to(device) for x in (temperature, top_p, top_k, uniform))
        chosen, logprobs = sample(logits, *settings)
        self._note_likeliest((table.top_logprobs[:rows] * step.complete).nonzero()[0], logits, temperature)
        return chosen[:rows].to("cpu", torch.int32).numpy(), logprobs[:rows].cpu().numpy()

    def _note_likeliest(self, slots: Int64, logits: torch.Tensor, temperature: Float32) -> None:
        """Keep the likeliest tokens of those slots whose requests want to know them."""
        if not len(slots):
            return
        rows = torch.from_numpy(slots).to(logits.device)
        tempered = torch.from_numpy(temperature[slots]).to(logits.device)
        ids, logprobs = likeliest(logits[rows], tempered, int(self._table.top_logprobs[slots].max()))
        for slot, tokens, values in zip(slots.tolist(), ids.tolist(), logprobs.tolist(), strict=True):
            count = int(self._table.top_logprobs[slot])
            self._request(slot).likeliest.append(tuple(zip(tokens[:count], values[:count], strict=True)))

    def _settle(self, grown: Int64, version: int) -> None:
        table = self._table
        last = table.known[grown] - 1
        stopped = (table.tokens[grown, last][:, None] == table.stop_ids[grown]).any(axis=1)
        for at in (table.has_stop[grown] & ~stopped).nonzero()[0]:
            stopped[at] = self._hits_stop(int(grown[at]))
        broken = ~np.isfinite(table.logprobs[grown, last])
        if table.streams[grown].any():
            self._send(grown[table.streams[grown] & ~broken], version)
        done = stopped | broken | (table.known[grown] >= table.limit[grown])
        # From the last to the first: releasing a slot moves the last live request to it.
        for at in done.nonzero()[0][::-1]:
            slot = int(grown[at])
            if broken[at]:
                self._fail(slot, ModelError(f"{DIVERGED}: weights version {version} diverged"))
            else:
                self._finish(slot, stopped=bool(stopped[at]), version=version)

    def _send(self, slots: Int64, version: int) -> None:
        """Send the newest tokens of streamed requests to their readers."""
        table, sampled = self._table, list[Sampled]()
        last = table.known[slots] - 1
        tokens, logprobs = table.tokens[slots, last].tolist(), table.logprobs[slots, last].tolist()
        for slot, token, logprob in zip(slots.tolist(), tokens, logprobs, strict=True):
            request = self._request(slot)
            assert request.inbox is not None, f"slot {slot} is not streamed"
            best = request.likeliest[-1] if request.likeliest else None
            sampled.append(Sampled(request.inbox, request.which, token, logprob, best))
        for inbox in hand_over(sampled, version):
            for request in table.requests[: table.live]:
                if request is not None and request.inbox is inbox:
                    request.future.cancel()

    def _hits_stop(self, slot: int) -> bool:
        """Whether a stop string ends in the last token. Older text was looked at when it was new."""
        request = self._request(slot)
        tokens, _ = self._table.sampled(slot, len(request.prompt))
        # A token is at least one byte, a character at most four.
        reach = 4 * max(map(len, request.params.stop)) + 8
        text: str = self._tokenizer.decode(tokens[-reach:], clean_up_tokenization_spaces=False)
        return any(stop in text for stop in request.params.stop)

    def _finish(self, slot: int, *, stopped: bool, version: int) -> None:
        request = self._request(slot)
        tokens, logprobs = self._table.sampled(slot, len(request.prompt))
        self._table.release(slot)
        if request.future.set_running_or_notify_cancel():
            reason = "stop" if stopped else "length"
            temperature = request.params.temperature
            best = tuple(request.likeliest)
            request.future.set_result(Generation(request.prompt, tokens, logprobs, reason, version, temperature, best))

    def _fail(self, slot: int, error: AgentLightningError) -> None:
        request = self._request(slot)
        self._table.release(slot, keep=False)
        self.counts["failed"] += 1
        fail(request, error)

    def _drop_cancelled(self) -> None:
        table = self._table
        for slot in range(table.live - 1, -1, -1):
            if self._request(slot).future.cancelled():
                table.release(slot)

    def fail_all(self, error: AgentLightningError) -> None:
        """End every live request with an error."""
        while self._table.live:
            self._fail(self._table.live - 1, error)

    def forget(self) -> None:
        """Drop what finished requests left, because the weights are no longer those that computed it."""
        self._table.forget()

    def _request(self, slot: int) -> Request:
        request = self._table.requests[slot]
        assert request is not None, f"slot {slot} is not live"
        return request


def fail(request: Request, error: AgentLightningError) -> None:
    """Hand an error to whoever waits for a request."""
    if request.future.set_running_or_notify_cancel():
        request.future.set_exception(error)


def make_pool(model: Any, context: int, slots: int, memory: int) -> tuple[SlotPool, int]:
    """Slots for a model, as many of `slots` as fit `memory` bytes; and how many those are."""
    config = model.config.get_text_config()
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype: torch.dtype = model.dtype
    size = config.num_hidden_layers * 2 * heads * context * dim * dtype.itemsize
    fitting = min(slots, memory // size)
    if fitting < 1:
        raise ConfigError(
            f"keys and values of one request of {context} tokens take {size} bytes, `kv_memory` is {memory}: "
            "lower `max_context` or raise `kv_memory`"
        )
    layers: int = config.num_hidden_layers
    pool = SlotPool(
        layers=layers, slots=fitting, heads=heads, context=context, dim=dim, dtype=dtype, device=model.device
    )
    return pool, fitting


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a response, by the model's settings and the tokenizer's."""
    ids: set[int] = set()
    for owner in (model.generation_config, model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        ids.update([value] if isinstance(value, int) else value or [])
    return sorted(ids)
