"""Problems of a configuration as lines: key, value, what is wrong, what to do. Called by `compose` and `checks`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from agentlightning.types import ConfigError

from .layers import FOLLOWERS
from .names import fields, nearest, sections


def config_error(problems: Sequence[str]) -> ConfigError:
    """All problems as one error, one line each."""
    if len(problems) == 1:
        return ConfigError(problems[0])
    return ConfigError("\n".join([f"{len(problems)} problems in the configuration:", *(f"- {p}" for p in problems)]))


def unknown(key: str) -> str:
    """The line for a key that nobody knows."""
    names = nearest(key)
    if not names:
        return f"unknown config key `{key}`; the names are verl's, such as `data.train_batch_size`"
    section = names[0].rpartition(".")[0]
    hint = " or ".join(f"`{name}`" for name in names)
    return f"unknown config key `{key}`; did you mean {hint}?" + (f" (section `{section}`)" if section else "")


def validation_lines(error: ValidationError) -> list[str]:
    """pydantic's errors as lines, one for each key; a key that only follows a wrong one gets none."""
    by_key: dict[str, list[Any]] = defaultdict(list)
    for item in error.errors(include_url=False):
        by_key[_key(item["loc"])].append(item)
    return [_line(key, items) for key, items in by_key.items() if FOLLOWERS.get(key) not in by_key]


def _key(loc: tuple[int | str, ...]) -> str:
    """The field that a location points to; the rest is a position within the value or a branch of a union."""
    parts = [str(part) for part in loc]
    known = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in known if name in fields()), ".".join(parts))


def _line(key: str, items: Sequence[Any]) -> str:
    if items[0]["type"] == "missing" and key == "actor_rollout_ref.model.path":
        return f"`{key}` is not set; give the directory or hub name of the model to train"
    if items[0]["type"] == "literal_error":
        return f"`{key}` is {items[0]['input']!r}, which is not possible here; possible: {items[0]['ctx']['expected']}"
    reasons = dict.fromkeys(
        str(item["ctx"]["error"])
        if item["type"] == "value_error"
        else item["msg"].replace("Input should be", "expected")
        for item in items
    )
    if key in sections():
        return f"`{key}`: {', or '.join(reasons)}"
    value = "not given" if items[0]["type"] == "missing" else f"{items[0]['input']!r}"
    return f"`{key}` is {value}: {', or '.join(reasons)}"
