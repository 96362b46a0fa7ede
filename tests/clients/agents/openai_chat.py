"""`openai`: a loop that uses a tool."""

from __future__ import annotations

import json
from typing import Any

from openai import OpenAI

import agentlightning as agl

from .weather import MAX_CALLS, TOOL, get_weather, question, reward


@agl.rollout
def agent(task: Any, llm: agl.LLM) -> float:
    client = OpenAI(base_url=llm.get_base_url(), api_key=llm.api_key)
    messages: list[Any] = [{"role": "user", "content": question(task)}]
    for _ in range(MAX_CALLS):
        completion = client.chat.completions.create(model=llm.model, messages=messages, tools=[TOOL])
        message = completion.choices[0].message
        if not message.tool_calls:
            return reward(task, message.content)
        messages.append(message)
        for call in message.tool_calls:
            result = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return 0.0
