"""A bandit in words, small enough that every algorithm learns it in a test: name early letters of the alphabet.

The agent asks once or twice, as the task says. An answer earns the more the earlier its first letter stands in the
alphabet; the reward is the mean over the answers. It is graded, so that groups rarely tie and pairs can be ranked, and
a model that knows nothing learns it in a dozen steps. Rollouts of one and of two turns stand side by side in each
batch, and each step has two mini-batches, so that the second update is off-policy. The agent speaks plain
`http.client`, at two milliseconds a call.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

import agentlightning as agl

WORDS = ("cat", "mat", "bird", "sing", "one", "two", "three", "four")
TASKS = [{"word": word, "again": number % 2 == 1} for number, word in enumerate(WORDS)]
CORPUS = (
    "a cat and a dog are by an apple",
    "bring each big child down from every fine garden here in june",
    "keep little men near our quiet park",
    "one two three four bird sing mat",
    "red sun to us very warm yellow zoo",
    "say something again",
)
_connections = threading.local()


@agl.rollout
def bandit(task: Any, llm: agl.LLM) -> None:
    """Asks once, or twice in one conversation; the reward is the mean score of the answers.

    A second dimension, `letter`, is there for algorithms that look at more than one.
    """
    messages: list[dict[str, str]] = []
    scores: list[float] = []
    for question in (f"say {task['word']}", "again")[: 1 + task["again"]]:
        messages.append({"role": "user", "content": question})
        answer = ask(llm, messages)
        messages.append({"role": "assistant", "content": answer})
        scores.append(score(answer))
    reward = {"early": sum(scores) / len(scores), "letter": sum(value > 0 for value in scores) / len(scores)}
    agl.emit_reward(reward, primary_key="early")


def score(text: str) -> float:
    """1 for `a`, falling to 0 for `z`; 0 for what does not begin with one of these letters."""
    place = ord(text.strip()[:1] or " ") - ord("a")
    return 1 - place / 25 if 0 <= place <= 25 else 0.0


def ask(llm: agl.LLM, messages: list[dict[str, str]]) -> str:
    """One chat completion, over a connection that the thread keeps."""
    url = urlsplit(llm.get_base_url())
    if getattr(_connections, "to", None) != url.netloc:
        _connections.to, _connections.it = url.netloc, http.client.HTTPConnection(url.netloc, timeout=60)
    body = json.dumps({"model": llm.model, "messages": messages, "max_tokens": 2})
    _connections.it.request("POST", f"{url.path}/chat/completions", body, {"content-type": "application/json"})
    reply = json.load(_connections.it.getresponse())
    return reply["choices"][0]["message"]["content"] or ""


def make_model(path: Path, seed: int) -> Path:
    return agl.tiny_model(
        path, CORPUS, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=64, seed=seed
    )


BASE: dict[str, Any] = {
    "actor_rollout_ref.model.enable_gradient_checkpointing": False,
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.val_kwargs.do_sample": True,
    "actor_rollout_ref.rollout.val_kwargs.temperature": 1.0,
    "actor_rollout_ref.rollout.val_kwargs.n": 6,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
    "actor_rollout_ref.actor.optim.lr": 1e-2,
    "data.train_batch_size": 4,
    "data.max_prompt_length": 60,
    "data.max_response_length": 2,
    "trainer.total_training_steps": 10,
    "trainer.save_freq": -1,
    "trainer.logger": [],
    "agentlightning.threads": 1,
}


@dataclass(frozen=True, slots=True)
class Learned:
    """Rewards of the policy before the first and after the last step, sampled at temperature 1."""

    before: np.ndarray
    after: np.ndarray
    history: list[dict[str, float]]

    @property
    def gain(self) -> float:
        return float(self.after.mean() - self.before.mean())

    @property
    def error(self) -> float:
        """Standard error of the gain."""
        return float(np.sqrt(self.before.var(ddof=1) / len(self.before) + self.after.var(ddof=1) / len(self.after)))


def learn(config: Mapping[str, Any], *, seed: int, directory: Path, **arguments: Any) -> Learned:
    """Train a fresh model with `BASE` and `config` over it; `arguments` go to `VERL`."""
    model = make_model(directory / f"model{seed}", seed)
    settings = {**BASE, "actor_rollout_ref.model.path": str(model), "agentlightning.seed": seed, **config}
    algorithm = agl.VERL(settings, **arguments)
    store = agl.InMemoryLightningStore()
    trainer = agl.Trainer(algorithm=algorithm, n_runners=8, store=store, run_dir=directory / f"run{seed}")
    trainer.fit(bandit, TASKS, val_dataset=TASKS)
    rewards = asyncio.run(validated(store))
    return Learned(rewards[min(rewards)], rewards[max(rewards)], algorithm.history)


async def validated(store: agl.LightningStore) -> dict[int, np.ndarray]:
    """Rewards of the validation rollouts, by step."""
    found: dict[int, list[float]] = {}
    for rollout in await store.query_rollouts(status_in=["succeeded"]):
        if rollout.mode == "val":
            reward = agl.find_final_reward(await store.query_spans(rollout.rollout_id))
            assert reward is not None
            found.setdefault((rollout.metadata or {})["step"], []).append(reward)
    return {step: np.array(rewards) for step, rewards in found.items()}
