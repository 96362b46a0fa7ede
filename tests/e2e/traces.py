"""Random agents on two real engines through a real gateway, while the weights of one of them change.

Called by `test_invariants`. What the engines generated is noted at the engines themselves, and the weights of every
version are kept, so that what training sees can be compared with both.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import numpy as np
import openai
import torch

from agentlightning.inference.engine import Engine
from agentlightning.inference.loading import load_model
from agentlightning.inference.sampling import Generation
from agentlightning.inference.service import ChatService
from agentlightning.learner.batch import Row
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.objectives import CrossEntropy
from agentlightning.learner.schedule import Schedule
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import LLM, Span

from .letters import CORPUS, make_model

TEMPERATURE = 0.9
UPDATE_EVERY = 12
"""Answers between two changes of the weights."""
WORDS = " ".join(CORPUS).split()


class Policy:
    """A model with its engine. Notes what it generates, and its weights by version."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        loaded = load_model(str(path))
        self.model = loaded.model
        self.engine = Engine(loaded.model, loaded.tokenizer, max_slots=6, max_context=400)
        self.service = ChatService(self.engine, loaded.tokenizer, name)
        self.generated: list[Generation] = []
        self.weights = {0: self._copy()}
        optimizer = OptimizerConfig(lr=3e-3, weight_decay=0.0)
        self.learner = Learner(self.model, optimizer=optimizer, schedule=Schedule(100), threads=1)
        self._watch()
        self.engine.start()

    def update(self, rng: random.Random) -> None:
        """A real training step on some text, as between the steps of a training."""
        ids = np.array([rng.randrange(3, 200) for _ in range(30)], np.int32)
        row = Row(ids, np.arange(30) > 0, {"weights": np.full(29, 1 / 29, np.float32)})
        with self.engine.updating():
            self.learner.update([row], CrossEntropy())
        self.weights[self.engine.version] = self._copy()

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def _watch(self) -> None:
        submit, stream = self.engine.submit, self.engine.stream

        def watched_submit(*arguments: Any) -> Future[Generation]:
            future = submit(*arguments)
            future.add_done_callback(lambda done: self.generated.append(done.result()))
            return future

        async def watched_stream(requests: Any) -> AsyncGenerator[Any]:
            async for which, item in stream(requests):
                if isinstance(item, Generation):
                    self.generated.append(item)
                yield which, item

        self.engine.submit, self.engine.stream = watched_submit, watched_stream  # type: ignore[method-assign]


@dataclass
class Traced:
    """What was recorded of some rollouts, and of whom."""

    main: Policy
    judge: Policy
    spans: dict[str, list[Span]] = field(default_factory=dict[str, list[Span]])
    """By rollout."""


async def trace(directory: Path, seed: int) -> Traced:
    """Run random agents; the weights change some times meanwhile."""
    rng = random.Random(seed)
    traced = Traced(
        Policy(make_model(directory / "main", seed), "main"),
        Policy(make_model(directory / "judge", seed + 100), "judge"),
    )
    store = InMemoryLightningStore()
    proxy = LLMProxy(store=store)
    proxy.sampling_parameters = {"train": {"temperature": TEMPERATURE}}
    for policy in (traced.main, traced.judge):
        proxy.set_backend(policy.name, policy.service)
    await proxy.start()
    try:
        working = asyncio.gather(*(_rollout(proxy, store, random.Random(f"{seed}/{at}"), traced) for at in range(6)))
        wanted = UPDATE_EVERY
        while not working.done():
            await asyncio.sleep(0.002)
            if len(traced.main.generated) >= wanted:
                await _update(proxy, traced.main, rng)
                wanted += UPDATE_EVERY
        await working
    finally:
        await proxy.stop()
        traced.main.engine.stop()
        traced.judge.engine.stop()
    return traced


async def _update(proxy: LLMProxy, policy: Policy, rng: random.Random) -> None:
    """New weights: with the gateway paused and drained, as the training loop does it, or with calls in the queue."""
    pause = rng.random() < 0.5
    if pause:
        proxy.pause()
        await proxy.drain(60)
    await asyncio.to_thread(policy.update, rng)
    if pause:
        proxy.resume()


async def _rollout(proxy: LLMProxy, store: InMemoryLightningStore, rng: random.Random, traced: Traced) -> None:
    rollout = await store.start_rollout("a task", mode="train", metadata={"seed": rng.randrange(10**6)})
    llm = proxy.as_resource(rollout.rollout_id, rollout.attempt.attempt_id, model="main")
    async with (
        openai.AsyncOpenAI(base_url=llm.endpoint, api_key="x", max_retries=0) as client,
        anthropic.AsyncAnthropic(base_url=llm.endpoint, api_key="x", max_retries=0) as other,
    ):
        kinds = [Talker, Responder, Messenger, Completer]
        chosen = [Completer, *rng.choices(kinds, k=rng.randint(1, 3))]
        agents = [kind(llm, client, other, random.Random(rng.random())) for kind in chosen]
        await asyncio.gather(*(agent.run() for agent in agents))
    traced.spans[rollout.rollout_id] = list(await store.query_spans(rollout.rollout_id))


class Agent:
    """Some turns of a conversation: it goes on, begins anew, goes back to an earlier turn, or asks the judge."""

    def __init__(
        self, llm: LLM, client: openai.AsyncOpenAI, other: anthropic.AsyncAnthropic, rng: random.Random
    ) -> None:
        self.client = client
        self.other = other
        self.rng = rng
        self.history: list[Any] = []

    async def run(self) -> None:
        for _ in range(self.rng.randint(2, 6)):
            await asyncio.sleep(self.rng.random() / 20)
            what = self.rng.random()
            if what < 0.15:
                self.history = []
            elif what < 0.3:
                self.history = self.history[: 2 * self.rng.randint(0, len(self.history) // 2)]
            self.history.append(self.say())
            model = "judge" if self.rng.random() < 0.2 else "main"
            self.history.append(await self.ask(model, self.rng.random() < 0.5, self.rng.randint(2, 8)))

    def words(self) -> str:
        return " ".join(self.rng.choices(WORDS, k=self.rng.randint(1, 4)))

    def say(self) -> Any:
        """What comes before the model's turn."""
        return {"role": "user", "content": self.words()}

    async def ask(self, model: str, stream: bool, limit: int) -> Any:
        """The model's turn."""
        raise NotImplementedError


class Talker(Agent):
    """Chat completions, of several choices now and then, one of which goes on."""

    async def ask(self, model: str, stream: bool, limit: int) -> Any:
        n = self.rng.choice([1, 1, 1, 2, 3])
        shared: Any = {"model": model, "messages": self.history, "max_tokens": limit, "n": n}
        if not stream:
            answer = await self.client.chat.completions.create(**shared)
            texts = [choice.message.content or "" for choice in answer.choices]
        else:
            texts = [""] * n
            async for chunk in await self.client.chat.completions.create(**shared, stream=True):
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
        return {"role": "assistant", "content": self.rng.choice(texts)}


class Responder(Agent):
    """The Responses API."""

    async def ask(self, model: str, stream: bool, limit: int) -> Any:
        shared: Any = {"model": model, "input": self.history, "max_output_tokens": limit}
        if not stream:
            text = (await self.client.responses.create(**shared)).output_text
        else:
            events = [event async for event in await self.client.responses.create(**shared, stream=True)]
            text = events[-1].response.output_text
        return {"role": "assistant", "content": text}


class Messenger(Agent):
    """Anthropic's Messages API."""

    async def ask(self, model: str, stream: bool, limit: int) -> Any:
        shared: Any = {"model": model, "messages": self.history, "max_tokens": limit}
        if not stream:
            content = (await self.other.messages.create(**shared)).content
        else:
            async with self.other.messages.stream(**shared) as events:
                content = (await events.get_final_message()).content
        return {"role": "assistant", "content": [block.model_dump(include={"type", "text"}) for block in content]}


class Completer(Agent):
    """Completions of token ids: what the model said goes on as the very same tokens."""

    def say(self) -> Any:
        return [self.rng.randrange(3, 200) for _ in range(self.rng.randint(1, 6))]

    async def ask(self, model: str, stream: bool, limit: int) -> Any:
        prompt = [token for part in self.history for token in part]
        extra = {"return_token_ids": True}
        shared: Any = {"model": model, "prompt": prompt, "max_tokens": limit, "extra_body": extra}
        if not stream:
            return (await self.client.completions.create(**shared)).choices[0].token_ids  # type: ignore[attr-defined]
        ids: list[int] = []
        async for chunk in await self.client.completions.create(**shared, stream=True):
            for choice in chunk.choices:
                ids += getattr(choice, "token_ids", None) or []
        return ids
