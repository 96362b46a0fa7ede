"""A job small enough for a test: an agent is rewarded for answers that hold the letter `a`.

Run as `python -m tests.e2e.letters RUN_DIR MODEL [--resume] [--crash-at STEP] [--config JSON]`; tests also import it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

from openai import OpenAI

import agentlightning as agl

CORPUS = ["the cat sat on a mat", "say something nice", "one two three four five six seven", "bright yellow birds sing"]
TASKS = [{"word": word} for word in ("cat", "mat", "bird", "sing", "one", "two", "three", "four")]
_client = OpenAI(base_url="http://unused", api_key="unused")


@agl.rollout
def letters_agent(task: Any, llm: agl.LLM) -> float:
    """Asks once; the reward is 1 if the answer holds an `a`."""
    client = _client.with_options(base_url=llm.get_base_url(), api_key=llm.api_key or "none")
    answer = client.chat.completions.create(
        model=llm.model, messages=[{"role": "user", "content": f"say {task['word']}"}], max_tokens=4
    )
    return float("a" in (answer.choices[0].message.content or ""))


def make_model(path: Path, seed: int = 0, hidden_size: int = 32, intermediate_size: int = 64) -> Path:
    return agl.tiny_model(
        path,
        CORPUS,
        hidden_size=hidden_size,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=intermediate_size,
        seed=seed,
    )


def config(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "algorithm.adv_estimator": "grpo",
        "actor_rollout_ref.model.path": str(model),
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.rollout.n": 8,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 4,
        "actor_rollout_ref.actor.optim.lr": 5e-3,
        "data.train_batch_size": 4,
        "data.max_prompt_length": 60,
        "data.max_response_length": 4,
        "trainer.total_training_steps": 12,
        "trainer.test_freq": 4,
        "trainer.save_freq": 3,
        "trainer.logger": ["console"],
        "agentlightning.threads": 1,
        **changes,
    }


KILLED_AT = 9
"""Rollouts of a step after which a crash comes: about half of them, whatever the number of samples."""


class CrashAt(agl.Hook):
    """Kills the process without warning, in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.seen = 0

    async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:
        if rollout.metadata["step"] == self.step and rollout.mode == "train":
            self.seen += 1
            if self.seen == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)


def train(run_dir: Path, model: Path, *, resume: bool = False, crash_at: int | None = None, **changes: Any) -> agl.VERL:
    algorithm = agl.VERL(config(model, **changes))
    hooks = [] if crash_at is None else [CrashAt(crash_at)]
    agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=run_dir, hooks=hooks).fit(
        letters_agent, TASKS, val_dataset=TASKS, resume=resume
    )
    return algorithm


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--crash-at", type=int)
    parser.add_argument("--config", type=json.loads, default={})
    args = parser.parse_args()
    train(args.run_dir, args.model, resume=args.resume, crash_at=args.crash_at, **args.config)
