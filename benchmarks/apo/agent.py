"""The agent that is tuned: one LLM call a role, then a grader. The same program for ours and for upstream.

With one role it takes `prompt_template`. With two it takes `resources` where the optimiser tunes both prompts (ours),
and `prompt_template` where it tunes one alone (upstream), which then is the first role's, or serves both.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from bed.answers import verdict
from bed.families import SHARED, World
from openai import AsyncOpenAI

import agentlightning as agl

ASKS = {"prompt": "Answer the case.", "planner": "Make the plan.", "writer": "Write the answer."}


class Work:
    """What one rollout does, and the time that all of them took."""

    def __init__(self, world: World, seed: int, base_url: str) -> None:
        self.world = world
        self.seed = seed
        self.base_url = base_url
        self.seconds = 0.0
        self.rollouts = 0
        self._clients: dict[int, AsyncOpenAI] = {}

    async def __call__(self, task: Mapping[str, Any], template: Callable[[str], Any]) -> float:
        """Run the roles one after the other, each with `template(role).format(...)`; the reward of the last answer."""
        began = time.perf_counter()
        said = ""
        try:
            for role in self.world.family.components:
                said = await self._ask("sim-task", template(role).format(case=task["case"], plan=said), ASKS[role])
            return await self._grade(task, said)
        finally:
            self.seconds += time.perf_counter() - began
            self.rollouts += 1

    async def _grade(self, task: Mapping[str, Any], said: str) -> float:
        if self.world.family.judge:
            graded = await self._ask("sim-judge", "Grade the answer from 0 to 1.", f"{task['case']}\nAnswer: {said}")
            return float(re.findall(r"\d\.\d+", graded)[0])
        found = verdict(self.world, self.world.task(self.seed, task["number"]), said)
        if found.feedback:
            agl.emit_message(found.feedback)
        return found.reward

    async def _ask(self, model: str, system: str, user: str) -> str:
        answer = await self._client().chat.completions.create(
            model=model,
            messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
            temperature=1.0 if self.world.family.sampled else 0.0,
        )
        return answer.choices[0].message.content or ""

    def _client(self) -> AsyncOpenAI:
        """One for each event loop: making one costs more than a call."""
        loop = id(asyncio.get_running_loop())
        if loop not in self._clients:
            self._clients[loop] = AsyncOpenAI(base_url=self.base_url, api_key="none", max_retries=5)
        return self._clients[loop]


def own_prompts(work: Work) -> Any:
    """An agent each of whose roles has a prompt of its own, by the role's name."""

    @agl.rollout
    async def agent(task: Any, resources: Any) -> float:
        return await work(task, lambda role: resources[role])

    return agent


def one_prompt(work: Work) -> Any:
    """An agent with one prompt: the only role's, or that of all roles, if it is `SHARED`; other roles keep theirs."""
    first = work.world.family.components[0]
    fixed = {role: agl.PromptTemplate(template=text, engine="f-string") for role, text in work.world.start.items()}
    everyone = work.world.role(SHARED) if len(fixed) > 1 else None

    @agl.rollout
    async def agent(task: Any, prompt_template: Any) -> float:
        shared = everyone is not None and everyone in prompt_template.template
        return await work(task, lambda role: prompt_template if shared or role == first else fixed[role])

    return agent
