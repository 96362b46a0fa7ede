"""`openai`, asynchronous: several answers to one question, of which the most frequent counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from openai import AsyncOpenAI

import agentlightning as agl

from .weather import question, reward


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    async with AsyncOpenAI(base_url=llm.get_base_url(), api_key=llm.api_key) as client:
        messages: list[Any] = [{"role": "user", "content": question(task)}]
        completion = await client.chat.completions.create(model=llm.model, messages=messages, n=3)
    answers = Counter(choice.message.content for choice in completion.choices)
    return reward(task, answers.most_common(1)[0][0])
