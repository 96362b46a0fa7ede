"""A planner and a worker, two LLMs in one agent: the planner reads the order, the worker sees only the plan.

It knows nothing of training: it gets an order and two LLMs, and says whether the goods came to the right door.
`train.py` trains both as they stand.
"""

from __future__ import annotations

from typing import Any

from openai import OpenAI

import agentlightning as agl

MAX_TOKENS = 4
"""A plan is two words and a door is one, each with an end token."""

# One client for the whole process: constructing one costs 20 ms of CPU, a copy by `with_options` 0.04 ms.
_CLIENT = OpenAI(api_key="unused", base_url="http://127.0.0.1/v1")


@agl.rollout
def depot_agent(task: dict[str, Any], resources: agl.NamedResources) -> float:
    """Handle one order.

    Args:
        task: A row of `data.py`; `request` is asked, `door` is where the goods belong.
        resources: The LLMs `planner` and `worker`.

    Returns:
        1.0 where the worker goes to the right door, else 0.0.
    """
    plan = say(resources["planner"], task["request"])
    return float(say(resources["worker"], plan) == task["door"])


def say(llm: Any, text: str) -> str:
    """What `llm` answers to `text`."""
    client = _CLIENT.with_options(base_url=llm.get_base_url(), api_key=llm.api_key or "unused")
    completion = client.chat.completions.create(
        model=llm.model,
        messages=[{"role": "user", "content": text}],
        max_tokens=MAX_TOKENS,
        **llm.sampling_parameters,
    )
    return completion.choices[0].message.content or ""
