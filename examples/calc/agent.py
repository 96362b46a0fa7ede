"""An agent that solves arithmetic word problems with a calculator, written against the stock `openai` package.

It knows nothing of training: it gets a task and an LLM, talks to the LLM, and says how well it did. `train.py` trains
it as it stands; `python -m examples.calc.agent "QUESTION" --base-url URL --model NAME` asks any OpenAI-compatible
endpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from typing import Any

from openai import OpenAI

import agentlightning as agl

from .calculator import TOOL, calculate

MAX_CALLS = 4
"""Calls of the LLM per question; a model that still asks for the calculator then has failed."""

# One client for the whole process: constructing one costs 20 ms of CPU (it sets up TLS), a call 2 ms, and
# `with_options` 0.04 ms. The copies that `with_options` makes also share one pool of open connections.
_CLIENT = OpenAI(api_key="unused", base_url="http://127.0.0.1/v1")

_ANSWER = re.compile(r"###\s*(-?\d+(?:\.\d+)?)\s*###")


@agl.rollout
def calc_agent(task: dict[str, Any], llm: agl.LLM) -> float:
    """Solve one problem.

    Args:
        task: A row of `data.py`; `question` is asked, `answer` is the number expected.
        llm: The endpoint to use.

    Returns:
        1.0 where the answer is right, else 0.0.
    """
    number = answer_in(solve(task["question"], llm))
    return float(number is not None and abs(number - task["answer"]) < 1e-6)


def solve(question: str, llm: agl.LLM) -> str:
    """Talk to `llm` until it answers; returns its last text, which may be empty."""
    client = _CLIENT.with_options(base_url=llm.get_base_url(), api_key=llm.api_key or "unused")
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(MAX_CALLS):
        completion = client.chat.completions.create(
            model=llm.model, messages=messages, tools=[TOOL], **llm.sampling_parameters
        )
        message = completion.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            result = use_tool(call.function.name, call.function.arguments) if call.type == "function" else _unknown("")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return ""


def use_tool(name: str, arguments: str) -> str:
    """What a tool call gives: the result, or a text that starts with `error: ` and says what is wrong with the call.

    Args:
        name: The tool that the model asked for; it may not exist.
        arguments: What the model wrote as its arguments; it may not be JSON.
    """
    if name != "calculator":
        return _unknown(name)
    try:
        expression = json.loads(arguments)["expression"]
    except (ValueError, TypeError, KeyError):
        return "error: the arguments must be a JSON object with `expression`"
    return calculate(str(expression))


def _unknown(name: str) -> str:
    return f"error: there is no tool `{name}`, only `calculator`"


def answer_in(text: str) -> float | None:
    """The number of the last `### 42 ###` in `text`, or `None` where there is none."""
    found = _ANSWER.findall(text)
    return float(found[-1]) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.calc.agent", description="Ask one question.")
    parser.add_argument("question", help="an arithmetic word problem")
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))
    parser.add_argument("--model", default=os.environ.get("OPENAI_MODEL", "main_llm"), help="default %(default)s")
    args = parser.parse_args()
    llm = agl.LLM(endpoint=args.base_url, model=args.model, api_key=os.environ.get("OPENAI_API_KEY"))
    print(solve(args.question, llm))


if __name__ == "__main__":
    main()
