"""`openai`: the older completions, where the agent writes the whole prompt; streamed, without a helper."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

import agentlightning as agl

from .weather import question, reward


@agl.rollout
def agent(task: Any, llm: agl.LLM) -> float:
    client = OpenAI(base_url=llm.get_base_url(), api_key=llm.api_key)
    prompt = f"<|im_start|>user\n{question(task)}<|im_end|><|im_start|>assistant\n"
    chunks = client.completions.create(model=llm.model, prompt=prompt, stream=True)
    return reward(task, "".join(chunk.choices[0].text for chunk in chunks))
