"""TRL's side of `compare.py`: optimizer steps of its GRPOTrainer; runs in `.peers/trl` and prints one JSON line.

The trainer is used as its users use it, by its public names only. A step samples 64 tokens for 8 prompts 8 times
(shorter ones are not allowed), asks a reward function, and trains once on all of it. The update is the time from the
reward function's return to the end of the step: advantages, forward, backward, optimizer. Settings that cost time are
in its favour: no gradient checkpointing, no reference model, no padding (all rows are equally long), and micro-batches
of 8 rows, the fastest on a CPU (4.8 s of CPU time an update; 5.5 s with 16, 5.0 s with 64).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from shapes import PROMPTS, RESPONSE, SAMPLES, VOCABULARY, Clock, model, prompts, report
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def tokenizer() -> PreTrainedTokenizerFast:
    """A word for each id, so that a prompt has exactly as many tokens as it should."""
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w2"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0", eos_token="w1", unk_token="w2")


class Steps(TrainerCallback):
    """Times whole steps, and updates from the reward function on; the first step warms up."""

    def __init__(self) -> None:
        self.whole, self.update = Clock(), Clock()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.whole.start()

    def reward(self, completions: list[str], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        if any(len(ids) != RESPONSE for ids in completion_ids):
            raise SystemExit(f"not all completions have {RESPONSE} tokens")
        self.update.start()
        return [float(i % SAMPLES) for i in range(len(completions))]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.update.stop("update")
        self.whole.stop("step")

    def clock(self) -> Clock:
        """Both, without the first step."""
        together = Clock()
        together.runs = {"step": self.whole.runs["step"][1:], "update": self.update.runs["update"][1:]}
        return together


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompt", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--micro", type=int, default=8, help="rows of a micro-batch")
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = Steps()
    texts = [" ".join(f"w{i}" for i in ids) for ids in prompts(args.prompt)]
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=args.micro,
            gradient_accumulation_steps=PROMPTS * SAMPLES // args.micro,
            num_generations=SAMPLES,
            max_completion_length=RESPONSE,
            generation_kwargs={"min_new_tokens": RESPONSE},
            max_steps=args.runs + 1,
            learning_rate=1e-6,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=model("sdpa"),
            reward_funcs=steps.reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer(),
            callbacks=[steps],
        )
        trainer.train()
    report(steps.clock())


if __name__ == "__main__":
    main()
