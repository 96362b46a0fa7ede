"""`anthropic`: messages, with a tool."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic

import agentlightning as agl

from .weather import MAX_CALLS, PARAMETERS, get_weather, question, reward

TOOLS: list[Any] = [{"name": "get_weather", "description": get_weather.__doc__, "input_schema": PARAMETERS}]


@agl.rollout
def agent(task: Any, llm: agl.LLM) -> float:
    client = Anthropic(base_url=llm.get_base_url(), api_key=llm.api_key)
    messages: list[Any] = [{"role": "user", "content": question(task)}]
    for _ in range(MAX_CALLS):
        message = client.messages.create(model=llm.model, max_tokens=64, messages=messages, tools=TOOLS)
        if message.stop_reason != "tool_use":
            return reward(task, "".join(block.text for block in message.content if block.type == "text"))
        messages.append({"role": "assistant", "content": message.content})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": get_weather(**block.input)}
            for block in message.content
            if block.type == "tool_use"
        ]
        messages.append({"role": "user", "content": results})
    return 0.0
