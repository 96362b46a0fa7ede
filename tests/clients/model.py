"""The model of the client tests: a tiny one that was taught for some seconds how to call a tool and how to answer.

It asks for the weather with the tool `get_weather` where that is offered, then says `It is rainy.` or `It is sunny.`,
whatever the tool found: half of its answers are wrong, which is what training needs. Called by `conftest.py`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.algorithm.sft import FinetuneConfig, finetune

CITIES = {"Bergen": "rainy", "Cairo": "sunny"}
TASKS = [{"city": city, "weather": weather} for city, weather in CITIES.items()]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Look up the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SYSTEMS = (None, "Be brief.", "You are a helpful assistant.", "Use the tool.")
ATOMS = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "',
    '"}}\n</tool_call>',
    '{"weather": "',
    '"}',
)
"""What is sampled as one token each; fewer tokens are learnt sooner."""


def build(directory: Path) -> Path:
    """Make the model in `directory`; takes about 5 s of CPU time."""
    conversations = [_conversation(random.Random(number)) for number in range(512)]
    corpus = [str(message.get("content")) for each in conversations for message in each["messages"]]
    corpus.append("get_weather(city): Look up the weather.")
    untrained = agl.tiny_model(
        directory / "untrained", corpus, atoms=ATOMS, hidden_size=48, num_layers=2, num_heads=4, intermediate_size=96
    )
    config = FinetuneConfig(epochs=3, batch_size=16, lr=5e-3, threads=1)
    finetune(untrained, conversations, directory / "model", config)
    return directory / "model"


def _conversation(rng: random.Random) -> dict[str, Any]:
    city, kind, system = rng.choice([*CITIES]), rng.choice(["tool", "plain", "json"]), rng.choice(SYSTEMS)
    weather = rng.choice(["rainy", "sunny"])
    question = f"What is the weather in {city}?" + (" Answer in JSON." if kind == "json" else "")
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    if kind == "tool":
        function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
        messages += [
            {"role": "assistant", "tool_calls": [{"id": "call_0", "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": "call_0", "content": CITIES[city]},
        ]
    answer = json.dumps({"weather": weather}) if kind == "json" else f"It is {weather}."
    messages.append({"role": "assistant", "content": answer})
    return {"messages": messages, "tools": [TOOL] if kind == "tool" else []}
