"""What happens to the keys of verl that have no field in the schema.

`compose` asks `find_rule` for each such key that was given a value other than verl's default. The rules themselves are
in `answers`; every name in `verl_defaults.json` is either a field or has a rule, and a test holds that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Kind = Literal["replaced", "no_effect", "refused"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One answer for a group of keys.

    Args:
        kind: `replaced`: something else happens here, or nothing needs to; `strict` refuses it. `no_effect`: with the
            settings that are possible now the key would do nothing in verl either. `refused`: it would change what is
            learned, so it is an error.
        keys: Full names, where `*` stands for anything and `{a,b}` for either.
        instead: What happens instead or, for `refused`, what is missing.
        real: How to get the real thing or, for `refused`, what to do now; empty where there is nothing to do.
        here: Values besides verl's default that describe what happens here anyway: they need no answer.
    """

    kind: Kind
    keys: tuple[str, ...]
    instead: str
    real: str = ""
    here: tuple[Any, ...] = ()


def find_rule(key: str) -> Rule:
    """The first rule that covers `key`.

    Raises:
        LookupError: there is none; a known key without a field always has one.
    """
    from .answers import RULES

    for rule in RULES:
        if any(matches(pattern, key) for pattern in rule.keys):
            return rule
    raise LookupError(f"no rule covers `{key}`")


@cache
def has_rule(key: str) -> bool:
    """Whether a rule covers `key`."""
    from .answers import RULES

    return any(matches(pattern, key) for rule in RULES for pattern in rule.keys)


def matches(pattern: str, key: str) -> bool:
    """Whether a rule's pattern covers `key`."""
    return _compile(pattern).fullmatch(key) is not None


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    words = {"*": ".*", "{": "(?:", "}": ")", ",": "|"}
    return re.compile("".join(words.get(char, re.escape(char)) for char in pattern))
