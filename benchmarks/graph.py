"""Speed and memory of the token graph: spans in memory to episodes, and what an episode holds.

Two figures that the design bounds: 1,000 rollouts of 20 turns that grow to 16k tokens are assembled in at most 2 s of
CPU time, and the token data of one rollout of 50 turns with a final context of 16k (ids, log-probs, masks) takes at
most 200 KB. Beside the plain conversation stand three shapes that joining finds harder.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from agentlightning.adapter import episode_from_spans
from agentlightning.emitter import reward_attributes
from agentlightning.semconv import AGL_REWARD, LLM_CALL_SPAN
from agentlightning.types import Episode, Span, TokenCall
from agentlightning.types.tokens import Int32

ROLLOUTS, TURNS, CONTEXT = 1000, 20, 16_384
CHUNK = 50
"""Rollouts whose spans are in memory at once: 20 calls of 8k tokens on average take 650 KB a rollout."""

Prompts = Callable[[np.random.Generator, int], list[Int32]]
"""A rollout's contexts (prompt and response of each call), from the number of turns."""


def conversation(random: np.random.Generator, turns: int) -> list[Int32]:
    """One agent whose every call continues the one before it."""
    tokens = random.integers(0, 150_000, CONTEXT, np.int32)
    return [tokens[: CONTEXT * (turn + 1) // turns] for turn in range(turns)]


def agents(random: np.random.Generator, turns: int) -> list[Int32]:
    """Four agents that take turns and share a system prompt."""
    tokens = [random.integers(0, 150_000, CONTEXT, np.int32) for _ in range(4)]
    for other in tokens[1:]:
        other[:500] = tokens[0][:500]
    return [tokens[turn % 4][: CONTEXT * (turn + 1) // turns] for turn in range(turns)]


def samples(random: np.random.Generator, turns: int) -> list[Int32]:
    """Ten answers to one prompt, then ten to another that continues the last."""
    tokens = random.integers(0, 150_000, CONTEXT, np.int32)
    sizes = [CONTEXT // 2] * (turns // 2) + [CONTEXT] * (turns - turns // 2)
    contexts = [tokens[:size].copy() for size in sizes]
    for context in [*contexts[: turns // 2 - 1], *contexts[turns // 2 : -1]]:
        context[-100:] = random.integers(0, 150_000, 100, np.int32)
    return contexts


def dropped_thinking(random: np.random.Generator, turns: int) -> list[Int32]:
    """A template that strips earlier thinking, so that no call continues another."""
    tokens = random.integers(0, 150_000, CONTEXT, np.int32)
    sizes = [CONTEXT * (turn + 1) // turns - 100 for turn in range(turns)]
    thinking = random.integers(0, 150_000, 60, np.int32)
    return [np.concatenate([tokens[: size - 40], thinking, tokens[size - 40 : size]]) for size in sizes]


def spans(random: np.random.Generator, shape: Prompts, turns: int, rollout_id: str) -> list[Span]:
    """A rollout as the gateway and the runner record it; each call owns its arrays, as one read from a store does."""
    made: list[Span] = []
    for turn, context in enumerate(shape(random, turns)):
        ids = {"rollout_id": rollout_id, "attempt_id": "at", "sequence_id": turn + 1}
        span = Span.create(LLM_CALL_SPAN, attributes={"gen_ai.response.id": f"c{turn}"}, **ids)
        span.token_call = TokenCall(
            model="m",
            prompt_ids=context[:-100].copy(),
            response_ids=context[-100:].copy(),
            logprobs=random.random(100, np.float32),
            finish_reason="stop",
            weights_version=turn // 10,
        )
        made.append(span)
    reward = {"rollout_id": rollout_id, "attempt_id": "at", "sequence_id": turns + 1}
    return [*made, Span.create(AGL_REWARD, attributes=reward_attributes(1.0), **reward)]


def speed(shape: Prompts) -> tuple[float, float, Episode]:
    """CPU seconds and wall seconds for all rollouts, and the last episode."""
    random = np.random.default_rng(0)
    cpu = wall = 0.0
    episode: Episode | None = None
    for start in range(0, ROLLOUTS, CHUNK):
        batch = [spans(random, shape, TURNS, f"ro-{n}") for n in range(start, start + CHUNK)]
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        episodes = [episode_from_spans(of_one, of_one[0].rollout_id) for of_one in batch]
        cpu += time.process_time() - cpu_before
        wall += time.perf_counter() - wall_before
        episode = episodes[-1]
    assert episode is not None
    return cpu, wall, episode


def memory(turns: int) -> int:
    """Bytes that one more episode takes when its spans are gone."""
    made = spans(np.random.default_rng(0), conversation, turns, "ro")
    episode_from_spans(made, "ro")  # whatever is built once
    gc.collect()
    tracemalloc.start()
    made = spans(np.random.default_rng(0), conversation, turns, "ro")
    episode = episode_from_spans(made, "ro")
    del made
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(episode.turns) == turns
    return held


def main() -> None:
    print(f"{ROLLOUTS} rollouts x {TURNS} turns that grow to {CONTEXT} tokens, spans in memory -> episodes:")
    for shape in (conversation, agents, samples, dropped_thinking):
        cpu, wall, episode = speed(shape)
        rows = len(episode.trajectories)
        print(f"  {shape.__name__:<18} {cpu:5.2f} s CPU  {wall:5.2f} s wall  ({rows} rows each)")
    print("token data of a rollout of 50 turns, final context 16k:")
    print(f"  {memory(50) / 1000:.0f} KB ({memory(50) / CONTEXT:.1f} bytes a token)")


if __name__ == "__main__":
    main()
