"""What a program is given for an attempt: its environment variables, and the files that they name.

Called by `command_agent`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentlightning.types import LLM, AttemptedRollout, NamedResources

from .event_server import Door

SHORTEST_SECRET = 8
"""A shorter API key is a placeholder such as `none`; blanking it out would only spoil the output."""


def variables(resources: NamedResources, rollout: AttemptedRollout, door: Door, place: Path) -> dict[str, str]:
    """The variables of one attempt; files go to the directory `place`."""
    rollout_id, attempt_id = rollout.rollout_id, rollout.attempt.attempt_id
    given = {
        "AGL_ROLLOUT_ID": rollout_id,
        "AGL_ATTEMPT_ID": attempt_id,
        "AGL_EVENT_URL": door.url,
        "AGL_KEY": door.key,
        "AGL_REWARD_FILE": str(place / "reward.json"),
    }
    if rollout.mode is not None:
        given["AGL_MODE"] = rollout.mode
    listed: dict[str, Any] = {}
    for name, resource in resources.items():
        listed[name] = resource.model_dump()
        if isinstance(resource, LLM):
            url, key = resource.get_base_url(rollout_id, attempt_id), resource.api_key or "none"
            listed[name] = {**listed[name], "resource_type": "llm", "endpoint": url, "api_key": key}
            if "OPENAI_BASE_URL" not in given:
                given |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key, "AGL_MODEL": resource.model}
        elif "AGL_PROMPT_FILE" not in given:
            given["AGL_PROMPT_FILE"] = private_file(place / "prompt.txt", resource.template)
    given["AGL_RESOURCES_FILE"] = private_file(place / "resources.json", json.dumps(listed))
    return given


def private_file(path: Path, text: str) -> str:
    """A file that only this user can read."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return str(path)


def field(task: Any, path: str) -> str:
    """A field of the task as an environment variable: strings as they are, the rest as JSON."""
    value = task
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError(f"the task has no `{path}`, which `input_map` names")
        value = value[part]  # pyright: ignore[reportUnknownVariableType]  # any JSON value
    return value if isinstance(value, str) else json.dumps(value)


def json_name(variable: str) -> str:
    """What a warm program finds a variable under."""
    return variable.removeprefix("AGL_").lower()


def secrets(given: Mapping[str, str]) -> dict[str, str]:
    """Those of the variables that must not be stored, by name."""
    names = ("AGL_KEY", "OPENAI_API_KEY")
    return {name: given[name] for name in names if len(given.get(name, "")) >= SHORTEST_SECRET}
