"""Tokens per CPU-second of the native engine against transformers' batched `generate`, on 64 ragged requests.

Both sample at temperature 1 from one random 0.9 M-parameter model, in turn (A B B A), on one thread. The figure is a
ratio, because machines differ.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import agentlightning as agl
from agentlightning.inference.engine import Engine
from agentlightning.inference.loading import load_model
from agentlightning.inference.sampling import SamplingParams

REQUESTS = 64


def main() -> None:
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = agl.tiny_model(Path(folder) / "model", ["a few words to make tokens of"])
        loaded = load_model(path)
        plain = AutoModelForCausalLM.from_pretrained(path).eval()
    size = loaded.model.config.vocab_size
    prompts = [generator.integers(3, size, int(n)) for n in generator.integers(32, 200, REQUESTS)]
    wanted = [int(n) for n in generator.integers(32, 64, REQUESTS)]
    for owner in (loaded.model.generation_config, loaded.model.config, loaded.tokenizer, plain.generation_config):
        owner.eos_token_id = None  # nobody stops early
    engine = Engine(loaded.model, loaded.tokenizer, max_slots=REQUESTS)
    engine.start()

    def native() -> int:
        with engine.updating():
            pass  # nothing is left over from the run before
        params = [SamplingParams(max_tokens=n, seed=i) for i, n in enumerate(wanted)]
        futures = [engine.submit(prompt, p) for prompt, p in zip(prompts, params, strict=True)]
        return sum(len(future.result().token_ids) for future in futures)

    longest = max(map(len, prompts))
    ids = torch.zeros(REQUESTS, longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, longest - len(prompt) :] = 1

    def generate() -> int:
        plain.generate(ids, attention_mask=mask, do_sample=True, max_new_tokens=max(wanted), pad_token_id=0)
        return sum(wanted)  # what lies beyond a request's own length was computed for nothing

    ours, theirs = _speed([native, generate, generate, native])
    engine.stop()
    print(f"native engine   {ours:8,.0f} tokens per CPU-second")
    print(f"generate        {theirs:8,.0f} tokens per CPU-second")
    print(f"ratio           {ours / theirs:8.2f}")


def _speed(order: list[Callable[[], int]]) -> tuple[float, float]:
    """Tokens per CPU-second of the first and the second function in `order`, after one warm-up of each."""
    first, second = order[0], order[1]
    spent = {first: 0.0, second: 0.0}
    tokens = {first: 0, second: 0}
    first()
    second()
    for work in order:
        started = time.process_time()
        tokens[work] += work()
        spent[work] += time.process_time() - started
    return tokens[first] / spent[first], tokens[second] / spent[second]


if __name__ == "__main__":
    main()
