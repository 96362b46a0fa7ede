"""LiteLLM's SDK, as a program that stays: a loop that uses a tool. Imports nothing of Agent-Lightning."""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm
from weather import MAX_CALLS, TOOL, get_weather, question, reward


def solve(asked: dict[str, Any]) -> float:
    endpoint = {"api_base": asked["openai_base_url"], "api_key": asked["openai_api_key"]}
    messages: list[Any] = [{"role": "user", "content": question(asked["task"])}]
    for _ in range(MAX_CALLS):
        completion = litellm.completion(model=f"openai/{asked['model']}", messages=messages, tools=[TOOL], **endpoint)
        message = completion.choices[0].message
        if not message.tool_calls:
            return reward(asked["task"], message.content)
        messages.append(message)
        for call in message.tool_calls:
            result = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return 0.0


for line in sys.stdin:
    print(json.dumps({"reward": solve(json.loads(line))}), flush=True)
