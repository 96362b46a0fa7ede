"""What a configuration key means: its type, verl's default, ours, and what happens here. Called by `agl config`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from agentlightning.types import ConfigError

from .differences import DIFFERENCES
from .errors import unknown
from .layers import FOLLOWERS
from .names import ADDED_KEYS, fields, is_known, mapping_fields, sections, verl_defaults
from .overrides import ALIASES, POLICIES, SECTION_ALIASES, canonical, split_policy
from .rules import find_rule, has_rule
from .schema import VerlConfig

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null", Any: "anything"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One key or section.

    Args:
        key: Full name.
        rows: (what, text) in the order to show them.
        below: For a section: (key, what it is) of what is in it.
    """

    key: str
    rows: tuple[tuple[str, str], ...]
    below: tuple[tuple[str, str], ...] = ()


def explain(written: str) -> Explanation:
    """What a key or section means, by any of its spellings.

    Raises:
        ConfigError: nobody knows it; the message has the nearest names.
    """
    if written.startswith(f"{POLICIES}."):
        return _of_policy(written)
    key = _canonical_section(canonical(written))
    spelt = [("read as", f"`{key}`")] if key != written else []
    if key in fields():
        return Explanation(key, (*spelt, *_field_rows(key)))
    if key in sections():
        return Explanation(key, (*spelt, ("what", _section_text(key))), tuple(_below(key)))
    if not is_known(key):
        raise ConfigError(unknown(written))
    if not has_rule(key):
        return _in_mapping(key, spelt)
    return Explanation(key, (*spelt, *_rule_rows(key)))


def _of_policy(written: str) -> Explanation:
    """A key that a policy has of its own."""
    name, below = split_policy(written)
    if below in ("", "trainable"):
        return explain(POLICIES)
    found = explain(below)
    return Explanation(found.key, (("read as", f"`{found.key}` of policy `{name}` alone"), *found.rows), found.below)


def _canonical_section(key: str) -> str:
    return SECTION_ALIASES.get(key, key)


def _field_rows(key: str) -> Iterator[tuple[str, str]]:
    info = fields()[key]
    yield "what", " ".join(info.description.split())
    yield "type", type_text(info)
    if key in verl_defaults():
        yield "verl's default", repr(verl_defaults()[key])
    elif not key.startswith("agentlightning."):
        yield "verl's default", "none: a recipe or reward manager reads it"
    different = {difference.key: difference for difference in DIFFERENCES}
    if key in different:
        yield "default here", f"{_plain(different[key].ours)}; {different[key].why}"
    elif not info.is_required():
        yield "default here", repr(info.get_default(call_default_factory=True))
    if key in FOLLOWERS:
        yield "follows", f"`{FOLLOWERS[key]}` where it is not set"
    yield from _old_names(key)
    yield "here", "used"


def _rule_rows(key: str) -> Iterator[tuple[str, str]]:
    rule = find_rule(key)
    if key in verl_defaults():
        yield "verl's default", repr(verl_defaults()[key])
    elif key in ADDED_KEYS:
        yield "verl's default", "none: a recipe, an older verl or Agent-Lightning 0.3 reads it"
    yield from _old_names(key)
    kinds = {
        "replaced": "accepted; shown in the table at start, and refused by `agentlightning.strict=true`",
        "no_effect": "accepted; it has no effect",
        "refused": "refused with any value but verl's default",
    }
    yield "here", kinds[rule.kind] + (f" or {_listed(rule.here)}" if rule.here and rule.kind == "refused" else "")
    yield ("why" if rule.kind == "refused" else "instead"), rule.instead
    if rule.real:
        yield "what to do", rule.real


def _in_mapping(key: str, spelt: list[tuple[str, str]]) -> Explanation:
    """A key below a field that takes any names."""
    owner = next(name for name in mapping_fields() if key.startswith(f"{name}."))
    return Explanation(key, (*spelt, ("part of", f"`{owner}`, which takes any names"), *_field_rows(owner)))


def _old_names(key: str) -> Iterator[tuple[str, str]]:
    names = [old for old, new in ALIASES.items() if new == key]
    names += [old + key.removeprefix(new) for old, new in SECTION_ALIASES.items() if key.startswith(f"{new}.")]
    if names:
        yield "other names", ", ".join(f"`{name}`" for name in names)


def _below(section: str) -> Iterator[tuple[str, str]]:
    """What is in a section: fields with what they are, then verl's other keys with what becomes of them."""
    prefix = f"{section}."
    for key, info in fields().items():
        if key.startswith(prefix):
            yield key, " ".join(info.description.split())
    for key in verl_defaults():
        if key.startswith(prefix) and key not in fields() and canonical(key) == key:
            yield key, f"({find_rule(key).kind.replace('_', ' ')}) {find_rule(key).instead}"


def _section_text(section: str) -> str:
    model: Any = VerlConfig
    for name in section.split("."):
        info = model.model_fields.get(name)
        if info is None or not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)):
            return "a section of verl that nothing here reads"
        model = info.annotation
    return " ".join((model.__doc__ or "").split())


def type_text(info: Any) -> str:
    """The type of a field in words, with its bounds."""
    bounds = [
        f"{word} {getattr(item, name)}"
        for item in info.metadata
        for name, word in _BOUNDS.items()
        if hasattr(item, name)
    ]
    return ", ".join([_type(info.annotation), *bounds])


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_type, inner)))
    if origin is Literal:
        return repr(*inner) if len(inner) == 1 else f"one of {_listed(inner)}"
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is tuple:
        return f"{len(inner)} values, each {_type(inner[0])}"
    if origin is dict:
        return "mapping"
    return _WORDS.get(annotation, "mapping")


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))


def _plain(value: Any) -> str:
    """A default as a value, or in words where `DIFFERENCES` says it in words."""
    return value if isinstance(value, str) and (" " in value or "`" in value or value == "required") else repr(value)
