"""What proposers share: the values of meta prompts, asking for all jobs at once, making a child of a reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentlightning.types import ConfigError, PromptTemplate

from ...candidate import Candidate, Proposal
from ...guard import placeholders, renders
from ...meta_prompts import MetaPrompt
from ...outcome import Outcome
from ...writer import Reply
from ...written import Request
from ..base import Job

if TYPE_CHECKING:
    from ...state import State


def check_batch_size(value: int, least: int = 1) -> int:
    """`value`.

    Raises:
        ConfigError: it is no whole number from `least` on.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"`batch_size` must be a whole number from {least}, not {value!r}")
    return value


def prompt_of(state: State, candidate: Candidate, component: str) -> PromptTemplate:
    """A prompt of a candidate, with the engine and the input keys of the start."""
    return state.start[component].model_copy(update={"template": candidate.texts[component]})


def others_of(state: State, candidate: Candidate, component: str) -> list[PromptTemplate]:
    """The prompts of a candidate that are tuned beside `component`."""
    return [prompt_of(state, candidate, name) for name in sorted(state.start) if name != component]


def given(state: State, component: str, text: str) -> dict[str, Any]:
    """The values that all meta prompts get."""
    return {
        "prompt_template": text,
        "component": component,
        "others": [name for name in sorted(state.start) if name != component],
        "rules": rules(state.start[component]),
    }


def rules(start: PromptTemplate) -> str:
    """What the guard demands of a new text, for the editor."""
    if start.engine == "poml":
        return "- It is a POML document and must stay one.\n- Keep every {{ place }} that is filled in."
    shown = "{{{{ {} }}}}" if start.engine == "jinja" else "{{{}}}"
    needed = sorted(placeholders(start))
    extra = sorted(set(start.input_keys or ()) - set(needed))
    lines: list[str] = []
    if needed:
        names = ", ".join(shown.format(name) for name in needed)
        lines.append(f"- Keep each of these placeholders, spelled exactly so: {names}. They are filled in later.")
    if extra:
        lines.append(f"- It may also use {', '.join(shown.format(name) for name in extra)}.")
    if start.engine == "jinja" or renders(start):
        lines.append(f"- Use no {'other ' if needed or extra else ''}placeholders.")
    if start.engine == "f-string" and renders(start):
        lines.append("- Write every curly brace that belongs to no placeholder twice.")
    return "\n".join(lines)


def child(job: Job, text: str, operator: str, why: str = "") -> Proposal:
    """The job's parent with one prompt replaced."""
    return Proposal({**job.parent.texts, job.component: text}, (job.parent,), operator, job.component, why)


async def ask(
    state: State, purpose: str, model: str, messages: Mapping[int, Sequence[Mapping[str, Any]]]
) -> dict[int, Reply]:
    """One request for each job, all at once; what came back, by the job's number."""
    requests = [Request(purpose, model, each, f"{state.round}/{number}") for number, each in messages.items()]
    replies = await state.writer.ask(requests)
    return {number: reply for number, reply in zip(messages, replies, strict=True) if reply is not None}


async def ask_for_text(
    state: State, purpose: str, model: str, messages: Mapping[int, Sequence[Mapping[str, Any]]]
) -> dict[int, Reply]:
    """As `ask`, without replies that were cut off: a prompt would lack its end."""
    replies = await ask(state, purpose, model, messages)
    return {number: reply for number, reply in replies.items() if not reply.cut}


def sample(state: State, what: str, job: Job, most: int) -> list[Outcome]:
    """At most `most` of the job's outcomes, in random order."""
    rng = state.rng(what, state.round, job.number)
    return rng.sample(list(job.outcomes), min(most, len(job.outcomes)))


def draw(state: State, what: str, number: int, prompts: Sequence[MetaPrompt]) -> MetaPrompt:
    """One of several meta prompts."""
    return state.rng(what, state.round, number).choice(prompts)
