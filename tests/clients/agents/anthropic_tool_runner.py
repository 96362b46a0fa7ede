"""`anthropic`: its tool runner, which calls the model and the tool until there is an answer."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic, beta_tool

import agentlightning as agl

from .weather import MAX_CALLS, get_weather, question, reward


@agl.rollout
def agent(task: Any, llm: agl.LLM) -> float:
    client = Anthropic(base_url=llm.get_base_url(), api_key=llm.api_key)
    runner = client.beta.messages.tool_runner(
        model=llm.model,
        max_tokens=64,
        max_iterations=MAX_CALLS,
        messages=[{"role": "user", "content": question(task)}],
        tools=[beta_tool(get_weather)],
    )
    message = runner.until_done()
    return reward(task, "".join(block.text for block in message.content if block.type == "text"))
