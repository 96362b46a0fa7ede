"""An agent that books meeting rooms with a tool, and the tuning of its prompt by what its judge says.

    export OPENAI_API_KEY=...
    python -m examples.apo.room_selector --model gpt-4.1-mini --critic-model gpt-5-mini --budget 400
    python -m examples.apo.room_selector --base-url http://127.0.0.1:8000/v1 --model mine     # any other endpoint
    python -m examples.apo.room_selector --run rooms --resume                                 # go on after a stop

The same from the command line, without this file's `main`:

    agl apo examples.apo.room_selector:room_selector --prompt prompt.txt --run rooms ...
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import Any

from openai import OpenAI

import agentlightning as agl

from .rooms import DAYS, find_rooms, judge, requests

PROMPT = "You book meeting rooms. Choose a room for this request.\n\n{request}"
MAX_CALLS = 4
"""Calls of the LLM for one request."""
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "find_rooms",
        "description": "All rooms with seats, equipment and access, and whether each is free at a time.",
        "parameters": {
            "type": "object",
            "properties": {
                "day": {"type": "string", "enum": list(DAYS)},
                "hour": {"type": "integer", "description": "0 to 23"},
            },
            "required": ["day", "hour"],
        },
    },
}
# One client for the whole process: making one costs 20 ms, a copy with another address next to nothing.
_CLIENT = OpenAI(api_key="unused", base_url="http://127.0.0.1/v1")


@agl.rollout
def room_selector(task: dict[str, Any], prompt_template: agl.PromptTemplate, llm: agl.LLM) -> float:
    """Choose a room for one request.

    Args:
        task: A row of `rooms.requests`; only its `request` is shown to the model.
        prompt_template: The prompt that is tuned; `{request}` is its only place.
        llm: The endpoint to use.

    Returns:
        What the judge gives, from 0 to 1. His words go to the trace, where the optimiser's critic reads them.
    """
    answer = book(prompt_template.format(request=task["request"]), llm)
    reward, words = judge(task, answer)
    agl.emit_message(f"the judge says: {words}")
    return reward


def book(prompt: str, llm: agl.LLM) -> str:
    """Talk to `llm` until it answers; returns its last text, which may be empty."""
    client = _CLIENT.with_options(base_url=llm.get_base_url(), api_key=llm.api_key or "unused")
    messages: list[Any] = [{"role": "user", "content": prompt}]
    for _ in range(MAX_CALLS):
        completion = client.chat.completions.create(
            model=llm.model, messages=messages, tools=[TOOL], **llm.sampling_parameters
        )
        message = completion.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            result = (
                use_tool(call.function.name, call.function.arguments) if call.type == "function" else "no such tool"
            )
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return ""


def use_tool(name: str, arguments: str) -> str:
    """What the booking system answers; of a call that it can't make sense of, why."""
    if name != "find_rooms":
        return f"there is no tool {name}, only find_rooms"
    try:
        given = json.loads(arguments)
        return json.dumps(find_rooms(str(given["day"]), int(given["hour"])))
    except (ValueError, KeyError, TypeError) as error:
        return f'day and hour are needed, as in {{"day": "Monday", "hour": 9}}: {error!r}'


def tune(args: argparse.Namespace) -> agl.APO:
    """Tune the prompt and return what did it."""
    key = os.environ.get("OPENAI_API_KEY", "unused")
    apo = agl.APO(
        OpenAI(base_url=args.base_url, api_key=key),
        preset=args.preset,
        gradient_model=args.critic_model or args.model,
        apply_edit_model=args.critic_model or args.model,
        budget=args.budget,
        test_dataset=requests("test", 40, args.seed),
        seed=args.seed,
    )
    # Behind a gateway, so that the critic can read the agent's calls.
    params = {"model": f"openai/{args.model}", "api_base": args.base_url, "api_key": key}
    gateway = agl.LLMProxy(model_list=[{"model_name": args.model, "litellm_params": params}])
    trainer = agl.Trainer(
        algorithm=apo,
        llm_proxy=gateway,
        n_runners=args.runners,
        initial_resources={"prompt": agl.PromptTemplate(template=PROMPT, input_keys=["request"])},
        run_dir=Path(args.runs_dir) / args.run,
    )
    trainer.fit(
        room_selector,
        requests("train", 24, args.seed),
        val_dataset=requests("val", 24, args.seed),
        resume=args.resume,
    )
    return apo


def main() -> None:
    args = parse_args()
    apo = tune(args)
    print(f"\nthe best prompt:\n{apo.get_best_prompt().template}")
    print(f"\nreport: {Path(args.runs_dir) / args.run / 'apo' / 'report.html'}")


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.apo.room_selector",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    parser.add_argument("--base-url", default=url, help="an OpenAI-compatible endpoint (default OPENAI_BASE_URL)")
    parser.add_argument("--model", default="gpt-4.1-mini", help="what the agent asks for (default gpt-4.1-mini)")
    parser.add_argument("--critic-model", default=None, help="what critic and editor ask for (default --model)")
    parser.add_argument("--preset", default="auto", help="protegi, gepa or auto (default auto)")
    parser.add_argument("--budget", type=int, default=400, help="rollouts, the final test included (default 400)")
    parser.add_argument("--runners", type=int, default=8, help="rollouts at a time (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of requests and choices (default 0)")
    parser.add_argument("--run", default="room-selector", help="name of the run (default room-selector)")
    parser.add_argument("--runs-dir", default="runs", help="where runs live (default runs/)")
    parser.add_argument("--resume", action="store_true", help="go on with an existing run")
    return parser.parse_args(words)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        main()
    except agl.AgentLightningError as error:
        raise SystemExit(f"error: {error}") from error
