"""`problem_with`: why a candidate prompt can't be tried, found before it costs a rollout.

`State.admit` asks it for each proposal. A broken prompt is turned down, never repaired: what a repaired prompt scores
says nothing about the text that was proposed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from agentlightning.types import PromptTemplate
from agentlightning.types import templates as text_of
from agentlightning.types.templates import Engine

LONGEST = 20_000
"""Characters that a candidate may have; four times the start prompt where that is more."""
_BREAKS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, ValueError)
"""What rendering may end in: a model's template divides by zero, calls itself, asks for a text of many gigabytes."""


def problem_with(candidate: PromptTemplate, start: PromptTemplate) -> str | None:
    """Why `candidate` can't stand in for `start`; `None` when nothing speaks against it.

    A place that `start` fills in must stay; one that it lacks may come only where `input_keys` lists it. What is
    demanded of a candidate is only what `start` does itself: where it doesn't render, as a text with JSON in it that
    the agent fills in by its own means, a candidate needn't either.
    """
    if not candidate.template.strip():
        return "empty"
    if len(candidate.template) > max(LONGEST, 4 * len(start.template)):
        return "too long"
    needed = placeholders(start)
    if not renders(start):
        return _lost(needed, candidate)
    return (
        _unreadable(candidate)
        or _lost(needed, candidate)
        or _unknown(needed, set(start.input_keys or ()), candidate)
        or _failure(candidate.template, candidate.engine, _formats(start))
        or _unused(start, candidate)
    )


def renders(start: PromptTemplate) -> bool:
    """Whether `format` can fill in a start prompt; if not, the agent fills it in by its own means."""
    return _failure(start.template, start.engine, _formats(start)) is None


def placeholders(template: PromptTemplate) -> set[str]:
    """Names that `format` fills in; of a text that isn't made for `str.format`, as JSON, each plain `{name}`."""
    if template.engine == "f-string" and not _is_formatted(template):
        return set(text_of.BRACED.findall(template.template))
    try:
        return text_of.placeholders(template.template, template.engine)
    except ValueError:
        return set()


def literals(template: PromptTemplate) -> list[str]:
    """The parts of a template that each rendering of it holds, in order."""
    if template.engine == "f-string" and not _is_formatted(template):
        return [part for part in text_of.BRACED.split(template.template)[::2] if part.strip()]
    try:
        return text_of.literals(template.template, template.engine)
    except ValueError:
        return [template.template]


def _is_formatted(template: PromptTemplate) -> bool:
    """Whether an f-string is one that `str.format` can fill in by name, and not a text with braces in it."""
    try:
        return all(_root(name).isidentifier() for name in text_of.placeholders(template.template, "f-string"))
    except ValueError:
        return False


def _unreadable(candidate: PromptTemplate) -> str | None:
    try:
        text_of.placeholders(candidate.template, candidate.engine)
    except ValueError as error:
        return _no_render(str(error))
    return None


def _lost(needed: set[str], candidate: PromptTemplate) -> str | None:
    lost = sorted(needed - placeholders(candidate))
    return f"lost placeholder {{{_short(lost[0])}}}" if lost else None


def _unknown(needed: set[str], keys: set[str], candidate: PromptTemplate) -> str | None:
    """Of an f-string place such as `task[title]`, `task` is enough of a name where it is an input key."""
    for name in sorted(text_of.placeholders(candidate.template, candidate.engine) - needed):
        if _root(name) not in keys:
            return f"unknown placeholder {{{_short(name)}}}"
    return None


def _root(name: str) -> str:
    return name.split(".")[0].split("[")[0]


def _short(text: str, most: int = 80) -> str:
    """On one line: counts by reason stay readable."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _formats(template: PromptTemplate) -> frozenset[str]:
    """The format specifications of an f-string, such as `%Y-%m-%d`: what they do with a real value isn't known here."""
    if template.engine != "f-string":
        return frozenset()
    try:
        return frozenset(form for _, _, form in text_of.fields(template.template) if form)
    except ValueError:
        return frozenset()


@lru_cache(maxsize=256)  # the start is asked about with each candidate
def _failure(template: str, engine: Engine, formats: frozenset[str]) -> str | None:
    """What goes wrong when `template` is rendered with samples.

    POML isn't rendered, which takes a second and more: only its tags are looked at.
    """
    if engine == "poml":
        return _no_render(text_of.unclosed(template))
    from jinja2 import TemplateError

    try:
        _rendered(template, engine, formats)
    except TypeError as error:
        # A Jinja expression such as `n > 3` may be right for the real value.
        return None if engine == "jinja" else _no_render(str(error))
    except (*_BREAKS, TemplateError) as error:
        return _no_render(f"{type(error).__name__}: {error}")
    return None


def _rendered(template: str, engine: Engine, formats: frozenset[str] = frozenset()) -> str:
    """`template` with samples filled in, each of which holds the name of its place."""
    names = {_root(name) for name in text_of.placeholders(template, engine)}
    return text_of.render(template, engine, {name: _Sample(formats, name) for name in names if name.isidentifier()})


def _unused(start: PromptTemplate, candidate: PromptTemplate) -> str | None:
    """A Jinja place that shows in `start` must show in the candidate, and not only be named, as by `if`."""
    if start.engine != "jinja":
        return None
    try:
        before, after = (_rendered(each.template, each.engine).lower() for each in (start, candidate))
    except TypeError:  # as above: what it comes to isn't known here
        return None
    for name in sorted(placeholders(start)):
        if (mark := _mark(name).lower()) in before and mark not in after:
            return f"lost placeholder {{{_short(name)}}}"
    return None


def _mark(name: str) -> str:
    return f"sample of {name}."


def _no_render(why: str | None) -> str | None:
    return None if why is None else f"does not render: {_short(why)}"


class _Sample:
    """Stands for any value: text, number, list of itself, object with every attribute and key."""

    def __init__(self, formats: frozenset[str], name: str) -> None:
        self._formats = formats
        self._text = _mark(name)

    def __getattr__(self, name: str) -> _Sample:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: Any) -> _Sample:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Sample:
        return self

    def __iter__(self) -> Any:
        return iter((self,))

    def __len__(self) -> int:
        return 1

    def __str__(self) -> str:
        return self._text

    def __format__(self, form: str) -> str:
        if form in self._formats:
            return self._text
        if any(int(number) > LONGEST for number in re.findall(r"\d+", form)):
            raise ValueError(f"the format {form!r} makes a text of more than {LONGEST} characters")
        for value in (self._text, 1, 1.0):
            try:
                return format(value, form)
            except ValueError:
                continue
        raise ValueError(f"no text and no number has the format {form!r}")
