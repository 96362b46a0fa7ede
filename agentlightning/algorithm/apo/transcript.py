"""Outcomes of rollouts -> what a critic is shown. Called by the proposers.

All LLM calls of a rollout are shown, a judge's among them, but for those in which another of the tuned prompts appears
and not the one that is being worked on. A prompt is found by the parts of its template that no placeholder touches. A
call whose messages are the beginning of a later one's is not shown twice, and what is long is cut in the middle, which
the text says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from agentlightning.types import PromptTemplate

from .guard import literals
from .outcome import Outcome

Messages = list[dict[str, Any]]

_LONGEST_TASK = 2000
_LONGEST_SAID = 2000
"""Characters of a task, of an error, of all feedback."""


def experiments(
    outcomes: Sequence[Outcome],
    prompt: PromptTemplate,
    others: Sequence[PromptTemplate] = (),
    longest: int = 8000,
    *,
    calls: bool = True,
) -> list[dict[str, Any]]:
    """What happened, as plain values for templates.

    Args:
        outcomes: In the order in which they are shown.
        prompt: The one that is being worked on.
        others: The prompts that are tuned beside it.
        longest: Characters of one transcript.
        calls: Whether transcripts are shown.
    """
    own, foreign = _parts(prompt), [parts for other in others if (parts := _parts(other))]
    found: list[dict[str, Any]] = []
    for outcome in outcomes:
        shown = _relevant(outcome.conversations, own, foreign) if calls else []
        found.append(
            {
                "status": outcome.status,
                "final_reward": outcome.reward if outcome.rewarded else None,
                "input": outcome.input,
                "error": outcome.error,
                "feedback": list(outcome.feedback),
                "messages": shown,
                "transcript": _transcript(shown, longest),
            }
        )
    return found


def runs(shown: Sequence[Mapping[str, Any]]) -> str:
    """Experiments as text."""
    return "\n\n".join(_run(number, each) for number, each in enumerate(shown, 1))


def cut(text: str, longest: int) -> str:
    """`text`, or its head and its tail with a note between them."""
    if len(text) <= longest:
        return text
    head, tail = longest * 2 // 3, longest - longest * 2 // 3
    return f"{text[:head]}\n[... {len(text) - longest} characters left out ...]\n{text[-tail:]}"


def _run(number: int, each: Mapping[str, Any]) -> str:
    reward = "none, which counts as 0" if each["final_reward"] is None else f"{each['final_reward']:.4g}"
    lines = [f'<run number="{number}" status="{each["status"]}" reward="{reward}">']
    lines.append(f"Task:\n{cut(_plain(each['input']), _LONGEST_TASK)}")
    if each["transcript"]:
        lines.append(f"What the agent and its LLM said:\n{each['transcript']}")
    if each["error"]:
        lines.append(f"It ended with an error:\n{cut(each['error'], _LONGEST_SAID)}")
    if each["feedback"]:
        said = "\n".join(f"- {text}" for text in each["feedback"])
        lines.append(f"Feedback:\n{cut(said, _LONGEST_SAID)}")
    return "\n".join([*lines, "</run>"])


# -- messages -------------------------------------------------------------------------------------------------------


def _parts(prompt: PromptTemplate) -> list[str]:
    """What every message that holds the prompt holds."""
    return [part.strip() for part in literals(prompt) if part.strip()]


def _relevant(
    conversations: Sequence[Mapping[str, Any]], own: Sequence[str], foreign: Sequence[Sequence[str]]
) -> list[Messages]:
    calls = [cast("Messages", each.get("messages") or []) for each in conversations]
    chosen = [call for call in calls if _holds(call, own) or not any(_holds(call, parts) for parts in foreign)]
    return [call for i, call in enumerate(chosen) if not any(later[: len(call)] == call for later in chosen[i + 1 :])]


def _holds(call: Messages, parts: Sequence[str]) -> bool:
    text = "\n".join(text_of(message) for message in call)
    return all(part in text for part in parts)


def _transcript(calls: Sequence[Messages], longest: int) -> str:
    """Calls as text; each gets the same share of the room."""
    if not calls:
        return ""
    texts = ["\n".join(_said(message) for message in call) for call in calls]
    share = longest // len(texts)
    shown = [cut(text, max(share, 400)) for text in texts]
    return cut("\n--- another call ---\n".join(shown), 2 * longest)


def _said(message: Mapping[str, Any]) -> str:
    lines = [f"[{message.get('role', '?')}] {text_of(message)}"]
    for call in cast("list[dict[str, Any]]", message.get("tool_calls") or []):
        function: Mapping[str, Any] = call.get("function") or {}
        lines.append(f"[calls tool] {function.get('name')}({function.get('arguments', '')})")
    return "\n".join(lines)


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message; of its parts where it has several."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [cast("dict[str, Any]", part) for part in cast("list[Any]", content) if isinstance(part, dict)]
        return "".join(str(part.get("text") or f"[{part.get('type')}]") for part in parts)
    return "" if content is None else str(content)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(value, default=str, option=options).decode()
