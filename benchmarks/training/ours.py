"""One side of `compare.py` that runs in our environment; prints one JSON line. `python ours.py WHAT [--prompt N]`.

`update` and `step` are one optimizer step of GRPO on 8 prompts x 8 samples x 64 tokens, `step` with the native engine
sampling them first; `unshared` is `update` with each row computed whole. `ragged` is fine-tuning on rows of all
lengths, `dense` the same module of transformers on 512-token rows with all logits. `turns` is a rollout of ten turns,
a row each, `merged` the one row that holds them all.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from shapes import PROMPTS, RESPONSE, SAMPLES, TURN, TURNS, VOCABULARY, Clock, model, prompts, ragged, report

from agentlightning.inference import Engine, SamplingParams
from agentlightning.learner import batch, prefix
from agentlightning.learner.batch import Row
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.objectives import CrossEntropy, Policy
from agentlightning.learner.schedule import Schedule

BUDGET = 2048
"""Tokens of a micro-batch. On a CPU 2,048 are a tenth faster than 8,192, whose activations leave the caches."""


class NoTokenizer:
    """The engine decodes only for stop strings, and nothing here stops early."""

    eos_token_id = None


def learner(network: Any) -> Learner:
    return Learner(network, optimizer=OptimizerConfig(), schedule=Schedule(1000), token_budget=BUDGET, threads=1)


def sample_row(prompt: list[int], response: Any, logprobs: Any, sequence: int) -> Row:
    mask = np.arange(len(prompt) + len(response)) >= len(prompt)
    count = PROMPTS * SAMPLES * RESPONSE
    columns = {
        "weights": np.full(len(response), 1 / count, np.float32),
        "old_logprobs": np.asarray(logprobs, np.float32),
        "advantages": np.full(len(response), np.float32(sequence % SAMPLES) - 3.5, np.float32),
    }
    return Row(np.concatenate([prompt, response]).astype(np.int32), mask, columns, sequence)


def samples(length: int) -> list[Row]:
    generator = np.random.default_rng(2)
    return [
        sample_row(prompt, generator.integers(8, VOCABULARY, RESPONSE), np.full(RESPONSE, np.log(1 / VOCABULARY)), i)
        for i, prompt in enumerate(prompt for prompt in prompts(length) for _ in range(SAMPLES))
    ]


def text_row(ids: np.ndarray, trained: np.ndarray) -> Row:
    return Row(ids.astype(np.int32), trained, {"weights": np.full(int(trained.sum()), 1e-4, np.float32)})


def conversation() -> tuple[np.ndarray, np.ndarray]:
    """Ids of a rollout of ten turns, and which turn sampled each, -1 for none."""
    turns = np.concatenate([np.repeat([-1, turn], TURN) for turn in range(TURNS)])
    return np.random.default_rng(3).integers(8, VOCABULARY, len(turns)), turns


def turn_rows() -> list[Row]:
    """What an adapter makes of the calls of a rollout: each one's whole context, its own response trained."""
    ids, turns = conversation()
    ends = [int(np.flatnonzero(turns == turn)[-1]) + 1 for turn in range(TURNS)]
    return [text_row(ids[:end], turns[:end] == turn) for turn, end in enumerate(ends)]


def merged_row() -> list[Row]:
    ids, turns = conversation()
    return [text_row(ids, turns >= 0)]


def share_nothing() -> None:
    """Let planning and packing find nothing that rows have in common."""

    def in_order(rows: Any) -> tuple[list[int], list[int]]:
        return list(range(len(rows))), [0] * len(rows)

    batch.in_order = prefix.in_order = in_order


def train(clock: Clock, name: str, rows: list[Row], objective: Any, runs: int, repeat: int = 1) -> None:
    """Updates on `rows`; short ones several times a run."""
    ours = learner(model("agl"))
    clock.time(name, lambda: [ours.update(rows, objective) for _ in range(repeat)], runs)


def step(clock: Clock, length: int, runs: int) -> None:
    network = model("agl")
    ours, engine = learner(network), Engine(network, NoTokenizer(), max_slots=PROMPTS * SAMPLES)
    engine.start()
    asked = [prompt for prompt in prompts(length) for _ in range(SAMPLES)]

    def once() -> None:
        params = [SamplingParams(max_tokens=RESPONSE, seed=i) for i in range(len(asked))]
        futures = [engine.submit(np.array(ids, np.int32), p) for ids, p in zip(asked, params, strict=True)]
        found = [future.result() for future in futures]
        rows = [sample_row(p, f.token_ids, f.logprobs, i) for i, (p, f) in enumerate(zip(asked, found, strict=True))]
        with engine.updating():
            ours.update(rows, Policy())

    clock.time("step", once, runs)
    engine.stop()


def dense(clock: Clock, runs: int) -> None:
    """transformers alone: rows of 512 tokens, 4 at a time, which is its fastest way, with all logits."""
    network = model("sdpa")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
    ids = torch.from_numpy(np.random.default_rng(4).integers(8, VOCABULARY, (16, 512)))

    def once() -> None:
        for four in ids.split(4):
            logits = network(input_ids=four, use_cache=False).logits
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), four[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    clock.time("update", once, runs)
    report(clock, tokens=ids.numel())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["update", "unshared", "step", "ragged", "dense", "turns", "merged"])
    parser.add_argument("--prompt", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    clock = Clock()
    if args.what == "dense":
        return dense(clock, args.runs)
    if args.what == "unshared":
        share_nothing()
    if args.what in ("update", "unshared"):
        train(clock, "update", samples(args.prompt), Policy(), args.runs)
    elif args.what == "step":
        step(clock, args.prompt, args.runs)
    elif args.what == "ragged":
        rows = [text_row(ids, np.arange(len(ids)) >= prompt) for ids, prompt in ragged()]
        train(clock, "update", rows, CrossEntropy(), args.runs)
        return report(clock, tokens=sum(map(len, rows)))
    else:
        train(clock, "update", turn_rows() if args.what == "turns" else merged_row(), CrossEntropy(), args.runs, 8)
    return report(clock)


if __name__ == "__main__":
    main()
