"""`openai`: the Responses interface, with a tool."""

from __future__ import annotations

import json
from typing import Any

from openai import OpenAI

import agentlightning as agl

from .weather import MAX_CALLS, TOOL, get_weather, question, reward

TOOLS: list[Any] = [{"type": "function", **TOOL["function"], "strict": False}]


@agl.rollout
def agent(task: Any, llm: agl.LLM) -> float:
    client = OpenAI(base_url=llm.get_base_url(), api_key=llm.api_key)
    items: list[Any] = [{"role": "user", "content": question(task)}]
    for _ in range(MAX_CALLS):
        response = client.responses.create(model=llm.model, input=items, tools=TOOLS)
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            return reward(task, response.output_text)
        items += response.output
        for call in calls:
            result = get_weather(**json.loads(call.arguments))
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    return 0.0
