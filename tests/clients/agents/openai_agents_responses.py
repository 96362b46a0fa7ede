"""`openai-agents`: an agent with a tool on the Responses interface."""

from __future__ import annotations

from typing import Any

from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, function_tool
from openai import AsyncOpenAI

import agentlightning as agl

from .weather import get_weather, question, reward


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    client = AsyncOpenAI(base_url=llm.get_base_url(), api_key=llm.api_key)
    forecaster = Agent(
        name="forecaster",
        instructions="Be brief.",
        model=OpenAIResponsesModel(llm.model, client),
        tools=[function_tool(get_weather)],
    )
    result = await Runner.run(forecaster, question(task), run_config=RunConfig(tracing_disabled=True))
    return reward(task, result.final_output)
