"""Credit rules by name, with parameters. Called by `VERL` and by the check of its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from agentlightning.types import ConfigError, Episode

CreditRule = Callable[[Episode, Sequence[Episode]], Sequence[float | None]]
"""(episode, the episodes of its task) -> one number a turn."""
CreditSpec = str | Mapping[str, Any] | CreditRule
"""A rule's name, `{"name": ..., parameter: value}`, or a function."""

RULES: dict[str, Callable[..., Sequence[float | None]]] = {}
"""The rules that have a name."""

F = TypeVar("F", bound=Callable[..., Sequence[float | None]])


def register_credit(name: str) -> Callable[[F], F]:
    """Decorator that makes a rule known under `name`, for configurations and command lines.

    Raises:
        ValueError: another rule holds the name already.
        ConfigError: the function can't be a rule.
    """

    def register(function: F) -> F:
        if RULES.get(name, function) is not function:
            raise ValueError(f"a credit rule named {name!r} exists already; choose another name")
        RULES[name] = _checked(function)
        return function

    return register


def relative(rule: F) -> F:
    """Decorator of a rule whose numbers are advantages already: the estimator leaves them as they are."""
    rule.relative = True  # type: ignore[attr-defined]
    return rule


def is_relative(rule: CreditRule) -> bool:
    """Whether the rule compared the rollouts of its group itself, see `relative`."""
    while isinstance(rule, partial):
        rule = cast("partial[Any]", rule).func
    return bool(getattr(rule, "relative", False))


def get_credit(spec: CreditSpec) -> CreditRule:
    """The rule that `spec` names, with its parameters set, or `spec` itself where it is a function.

    Raises:
        ConfigError: no rule has that name, a parameter is unknown or its value refused, or the function can't be a
            rule.
    """
    if isinstance(spec, Mapping):
        given = dict(spec)
        name = given.pop("name", None)
    elif isinstance(spec, str):
        name, given = spec, {}
    else:
        return _checked(spec)
    if not isinstance(name, str) or name not in RULES:
        raise ConfigError(
            f"`credit` {name!r} is no credit rule; known are {', '.join(RULES)}, or give a function of (episode, group)"
        )
    rule = RULES[name]
    known = _parameters(rule)
    for parameter in given:
        if parameter not in known:
            offer = f"it has {', '.join(f'`{each}`' for each in known)}" if known else "it has none"
            raise ConfigError(f"`credit.{parameter}`: the rule `{name}` has no such parameter; {offer}")
    bound = partial(rule, **given) if given else rule
    _try(bound, name)
    return bound


def _parameters(rule: Callable[..., Any]) -> list[str]:
    found = inspect.signature(rule).parameters.values()
    return [parameter.name for parameter in found if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


def _try(rule: CreditRule, name: str) -> None:
    """Rules check their parameters when they are called, so one is called with nothing, before a rollout is run."""
    nothing = Episode("none", [], [], None)
    try:
        rule(nothing, [nothing])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`credit` {name!r}: {error}") from error


def _checked(rule: Any) -> CreditRule:
    if not callable(rule):
        raise ConfigError(f"`credit` is a {type(rule).__name__}; give a rule's name, or a function of (episode, group)")
    try:
        inspect.signature(rule).bind(None, None)
    except TypeError as error:
        name = getattr(rule, "__name__", type(rule).__name__)
        raise ConfigError(
            f"`credit`: `{name}` can't be called with two arguments ({error}); a rule takes (episode, group)"
        ) from error
    except ValueError:
        pass  # a built-in function: its signature is not known
    return cast("CreditRule", rule)
