"""A request gets the same tokens and log-probs, to the bit, alone or in any company.

The design's determinism (decision 8) stands on this, and so does sharing keys and values between requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

from agentlightning.inference import Engine, Generation, SamplingParams

from .conftest import make_model

SHAPES: dict[str, dict[str, int]] = {
    "64 wide, heads of 16": {},
    "128 wide, heads of 32, as the tiny model": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "vocab_size": 600,
    },
    "192 wide, 3 queries a head, odd sizes": {
        "hidden_size": 192,
        "intermediate_size": 516,
        "num_attention_heads": 6,
        "num_hidden_layers": 2,
        "vocab_size": 1003,
    },
    "256 wide, no grouping": {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_key_value_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 4096,
    },
}
FAMILIES = np.random.default_rng(0).integers(0, 350, (3, 300))


@dataclass(frozen=True)
class Ask:
    """A request whose prompt begins like that of others of its family."""

    family: int
    shared: int
    own: int
    seed: int
    max_tokens: int
    temperature: float
    top_p: float
    wait: bool
    """Whether to wait for its answer before the next request comes."""
    turns: int

    def prompt(self) -> np.ndarray:
        return np.concatenate([FAMILIES[self.family, : self.shared], self.more(0)])

    def more(self, turn: int) -> np.ndarray:
        return np.random.default_rng(self.seed + 1000 * turn).integers(0, 350, self.own)

    def params(self, turn: int) -> SamplingParams:
        return SamplingParams(
            temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, seed=self.seed + turn
        )


asks = st.builds(
    Ask,
    family=st.integers(0, 2),
    shared=st.sampled_from([0, 1, 7, 31, 64, 127, 128, 129, 200, 300]),
    own=st.integers(1, 40),
    seed=st.integers(0, 5),
    max_tokens=st.integers(1, 24),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_p=st.sampled_from([1.0, 1.0, 0.8]),
    wait=st.booleans(),
    turns=st.integers(1, 3),
)


class Alone:
    """Answers of an engine that never has two requests, nor anything left of an earlier one."""

    def __init__(self, model: Any, tokenizer: Any):
        self.engine = Engine(model, tokenizer, max_slots=1)
        self.engine.start()
        self._known: dict[tuple[bytes, SamplingParams], bytes] = {}

    def answer(self, prompt: np.ndarray, params: SamplingParams) -> bytes:
        key = (prompt.astype(np.int32).tobytes(), params)
        if key not in self._known:
            with self.engine.updating():
                pass
            self._known[key] = bits(self.engine.submit(prompt, params).result(timeout=100))
        return self._known[key]


def bits(generation: Generation) -> bytes:
    return generation.token_ids.tobytes() + generation.logprobs.tobytes()


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def alone(request: pytest.FixtureRequest, endless: Any) -> Iterator[tuple[Any, Any, Alone]]:
    model = make_model(**request.param)
    reference = Alone(model, endless)
    yield model, endless, reference
    reference.engine.stop()


@settings(deadline=None, max_examples=5)
@given(
    requests=st.lists(asks, min_size=2, max_size=8),
    slots=st.sampled_from([1, 2, 5, 16]),
    budget=st.sampled_from([3, 50, 8192]),
)
def test_company_changes_nothing(alone: tuple[Any, Any, Alone], requests: list[Ask], slots: int, budget: int) -> None:
    model, tokenizer, reference = alone
    engine = Engine(model, tokenizer, max_slots=slots, max_prefill_tokens=budget)
    engine.start()
    try:
        talks = [(ask, 0, ask.prompt()) for ask in requests]
        while talks:
            flying = []
            for ask, turn, prompt in talks:
                flying.append(engine.submit(prompt, ask.params(turn)))
                if ask.wait:
                    flying[-1].result(timeout=100)
            answers = [future.result(timeout=100) for future in flying]
            for (ask, turn, prompt), answer in zip(talks, answers, strict=True):
                assert bits(answer) == reference.answer(prompt, ask.params(turn)), (ask, turn)
            talks = [
                (ask, turn + 1, np.concatenate([prompt, answer.token_ids, ask.more(turn + 1)]))
                for (ask, turn, prompt), answer in zip(talks, answers, strict=True)
                if turn + 1 < ask.turns
            ]
    finally:
        engine.stop()


def test_a_full_house_changes_nothing(alone: tuple[Any, Any, Alone]) -> None:
    model, tokenizer, reference = alone
    rng = np.random.default_rng(7)
    requests = [
        (rng.integers(0, 350, rng.integers(1, 400)), SamplingParams(max_tokens=int(rng.integers(1, 60)), seed=at))
        for at in range(70)
    ]
    engine = Engine(model, tokenizer, max_slots=64)
    engine.start()
    try:
        futures = [engine.submit(*request) for request in requests]
        answers = [future.result(timeout=100) for future in futures]
    finally:
        engine.stop()
    for at in range(0, 70, 9):
        assert bits(answers[at]) == reference.answer(*requests[at]), at


@pytest.mark.parametrize("inputs", [64, 128, 192, 384, 516, 1024])
@pytest.mark.parametrize("outputs", [32, 128, 256, 1024, 3000])
def test_linear_layers_are_row_invariant_from_four_rows_up(inputs: int, outputs: int) -> None:
    """The measured fact under it all. Where this fails, the library or the processor is another kind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = torch.Generator().manual_seed(inputs)
        rows, weight = torch.randn(1100, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
        everything = linear(rows, weight)
        for count in (4, 5, 8, 13, 16, 31, 64, 100, 255, 512, 1024):
            for first in (0, 3, 60):
                assert torch.equal(linear(rows[first : first + count], weight), everything[first : first + count])
    finally:
        torch.set_num_threads(threads)
