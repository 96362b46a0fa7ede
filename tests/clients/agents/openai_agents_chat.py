"""`openai-agents`, streamed: an agent with a tool on chat completions."""

from __future__ import annotations

from typing import Any

from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool
from openai import AsyncOpenAI

import agentlightning as agl

from .weather import get_weather, question, reward


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    client = AsyncOpenAI(base_url=llm.get_base_url(), api_key=llm.api_key)
    forecaster = Agent(
        name="forecaster",
        instructions="Be brief.",
        model=OpenAIChatCompletionsModel(llm.model, client),
        tools=[function_tool(get_weather)],
    )
    running = Runner.run_streamed(forecaster, question(task), run_config=RunConfig(tracing_disabled=True))
    async for _ in running.stream_events():
        pass
    return reward(task, running.final_output)
