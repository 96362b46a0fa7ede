"""One model that plays agent, critic and editor for `examples/apo`, by fixed rules.

The agent calls the tool, then chooses; it follows a rule of the house only where its prompt states it, and makes
mistakes now and then. The critic reads what the judge said, the editor adds what the critic asks for.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

RULES = {
    "booked at that time": "Take only rooms that are free.",
    "one spare seat": "Count one spare seat beside the people.",
    "has no ": "Check that the room has all equipment that is asked for.",
    "without steps": "For a wheelchair take only step-free rooms.",
    "smallest room": "Of several rooms take the smallest.",
    "exactly one room": "Answer with the id of one room, or NONE where no room will do.",
}
"""What the judge says -> what helps against it."""


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """The message that answers a request."""
    messages = body["messages"]
    text = str(messages[0]["content"])
    if not body.get("tools"):
        return {"role": "assistant", "content": _write(text)}
    if messages[-1]["role"] != "tool":
        found = re.search(r"on (\w+) at (\d+):00", text)
        assert found
        arguments = json.dumps({"day": found[1], "hour": int(found[2])})
        call = {"id": "call_1", "type": "function", "function": {"name": "find_rooms", "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"role": "assistant", "content": _choose(text, json.loads(messages[-1]["content"]))}


def _write(text: str) -> str:
    """As critic, as editor, or as both in one: the rules that the runs speak for."""
    asked = [rule for said, rule in RULES.items() if said in text]
    prompt = re.search(r"<prompt>\n(.*?)\n</prompt>", text, re.DOTALL)
    assert prompt
    rules = [rule for rule in asked or [rule for rule in RULES.values() if rule in text] if rule not in prompt[1]]
    if "<new_prompt>" not in text and "``` fences" not in text:
        return "\n".join(f"- Add: {rule}" for rule in rules) or "- Nothing to add."
    made = "\n".join([*rules[:2], prompt[1]])
    return f"<new_prompt>{made}</new_prompt>" if "<new_prompt>" in text else f"```\n{made}\n```"


def _choose(prompt: str, rooms: list[dict[str, Any]]) -> str:
    follows = {rule: rule in prompt for rule in RULES.values()}
    free, spare, equipment, steps, smallest, one = follows.values()
    people = int(re.search(r"for (\d+) people", prompt)[1])  # type: ignore[index]
    needs = [each for each in ("screen", "whiteboard", "phone", "camera") if re.search(rf"\ba {each}\b", prompt)]
    fitting = [
        room
        for room in rooms
        if (room["free"] or not free)
        and room["seats"] >= people + spare
        and (not equipment or all(each in room["equipment"] for each in needs))
        and (not steps or room["step_free"] or "uses a wheelchair" not in prompt)
    ]
    rng = random.Random(prompt)
    if not fitting:
        return "NONE" if one else "I found nothing."
    if smallest:
        return min(fitting, key=lambda room: room["seats"])["id"]
    return rng.choice(fitting)["id"] if one else " or ".join(room["id"] for room in rng.sample(fitting, 1))
