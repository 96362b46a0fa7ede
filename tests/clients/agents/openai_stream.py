"""`openai`, streamed: text is shown as it arrives, tools are used."""

from __future__ import annotations

import json
from typing import Any

from openai import AsyncOpenAI

import agentlightning as agl

from .weather import MAX_CALLS, TOOL, get_weather, question, reward


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    client = AsyncOpenAI(base_url=llm.get_base_url(), api_key=llm.api_key)
    messages: list[Any] = [{"role": "user", "content": question(task)}]
    for _ in range(MAX_CALLS):
        shown = ""
        async with client.chat.completions.stream(model=llm.model, messages=messages, tools=[TOOL]) as stream:
            async for event in stream:
                if event.type == "content.delta":
                    shown += event.delta
            message = (await stream.get_final_completion()).choices[0].message
        if not message.tool_calls:
            return reward(task, shown)
        messages.append(message)
        for call in message.tool_calls:
            result = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return 0.0
