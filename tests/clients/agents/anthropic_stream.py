"""`anthropic`, asynchronous and streamed, with a tool."""

from __future__ import annotations

from typing import Any

from anthropic import AsyncAnthropic

import agentlightning as agl

from .weather import MAX_CALLS, PARAMETERS, get_weather, question, reward

TOOLS: list[Any] = [{"name": "get_weather", "description": get_weather.__doc__, "input_schema": PARAMETERS}]


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    client = AsyncAnthropic(base_url=llm.get_base_url(), api_key=llm.api_key)
    messages: list[Any] = [{"role": "user", "content": question(task)}]
    for _ in range(MAX_CALLS):
        shown = ""
        async with client.messages.stream(
            model=llm.model, max_tokens=64, system="Be brief.", messages=messages, tools=TOOLS
        ) as stream:
            async for text in stream.text_stream:
                shown += text
            message = await stream.get_final_message()
        calls = [block for block in message.content if block.type == "tool_use"]
        if not calls:
            return reward(task, shown)
        messages.append({"role": "assistant", "content": message.content})
        results = [{"type": "tool_result", "tool_use_id": c.id, "content": get_weather(**c.input)} for c in calls]
        messages.append({"role": "user", "content": results})
    return 0.0
