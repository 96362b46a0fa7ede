"""`pydantic-ai`: an agent with a tool."""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import agentlightning as agl

from .weather import get_weather, question, reward


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    provider = OpenAIProvider(base_url=llm.get_base_url(), api_key=llm.api_key)
    forecaster = Agent(OpenAIChatModel(llm.model, provider=provider), tools=[get_weather])
    result = await forecaster.run(question(task))
    return reward(task, result.output)
