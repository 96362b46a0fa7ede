"""`ag2`: an agent with a tool."""

from __future__ import annotations

from typing import Any

from ag2 import Agent
from ag2.config import OpenAIConfig

import agentlightning as agl

from .weather import get_weather, question, reward


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    config = OpenAIConfig(llm.model, base_url=llm.get_base_url(), api_key=llm.api_key)
    forecaster = Agent("forecaster", "Be brief.", config=config, tools=[get_weather])
    reply = await forecaster.ask(question(task))
    return reward(task, reply.body)
