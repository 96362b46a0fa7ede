"""What all sides train on: one model, samples of prompts, ragged rows. Both environments read it: numpy and
transformers only.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

VOCABULARY, PROMPTS, SAMPLES, RESPONSE = 4096, 8, 8, 64
RAGGED = 64
"""Rows of ragged data, 16 to 512 tokens, 140 in the mean; the first third of each is prompt."""
TURNS, TURN = 10, (24, 24)
"""Turns of a rollout; tokens of each turn's observation and of its response."""


def model(attention: str) -> Any:
    """4.0 M parameters of Qwen2's architecture in fp32, always the same random ones; it never ends a response."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=attention,
    )
    return Qwen2ForCausalLM(config).eval()


def prompts(length: int) -> list[list[int]]:
    """Token ids of `PROMPTS` prompts; the first few ids are special tokens and left out."""
    return np.random.default_rng(0).integers(8, VOCABULARY, (PROMPTS, length)).tolist()


def ragged() -> list[tuple[np.ndarray, int]]:
    """Token ids of rows, and how many of each are prompt."""
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.lognormal(np.log(140) - 0.32, 0.8, RAGGED), 16, 512).astype(int)
    return [(generator.integers(8, VOCABULARY, n), int(n) // 3) for n in lengths]


class Clock:
    """CPU and wall time of this process between `start` and `stop`, by name, one number a run."""

    def __init__(self) -> None:
        self.runs: dict[str, list[tuple[float, float]]] = {}
        self._began = (0.0, 0.0)

    def start(self) -> None:
        self._began = (time.process_time(), time.perf_counter())

    def stop(self, name: str) -> None:
        cpu, wall = self._began
        self.runs.setdefault(name, []).append((time.process_time() - cpu, time.perf_counter() - wall))

    def time(self, name: str, work: Callable[[], object], runs: int) -> None:
        """Run once to warm up, then `runs` times."""
        work()
        for _ in range(runs):
            self.start()
            work()
            self.stop(name)


def report(clock: Clock, **figures: float) -> None:
    """One JSON line: CPU and wall seconds of each run by name, peak memory in MiB, and other figures."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"runs": clock.runs, "peak_mib": peak, **figures}), flush=True)
