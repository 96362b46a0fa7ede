"""`autogen-agentchat`, as a program that stays: an agent with a tool. Imports nothing of Agent-Lightning."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from weather import MAX_CALLS, get_weather, question, reward

MODEL_INFO: Any = {
    "family": "unknown",
    "function_calling": True,
    "json_output": False,
    "structured_output": False,
    "vision": False,
}


async def solve(asked: dict[str, Any]) -> float:
    client = OpenAIChatCompletionClient(
        model=asked["model"],
        base_url=asked["openai_base_url"],
        api_key=asked["openai_api_key"],
        model_info=MODEL_INFO,
    )
    forecaster = AssistantAgent(
        "forecaster",
        model_client=client,
        tools=[get_weather],
        system_message="Be brief.",
        max_tool_iterations=MAX_CALLS,
    )
    result = await forecaster.run(task=question(asked["task"]))
    return reward(asked["task"], str(result.messages[-1].content))


for line in sys.stdin:
    print(json.dumps({"reward": asyncio.run(solve(json.loads(line)))}), flush=True)
