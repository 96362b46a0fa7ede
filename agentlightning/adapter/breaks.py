"""Finds out where and why a prompt does not continue an earlier call, from the tokens alone.

Called by `graph`; `agl inspect`, which has a tokenizer, makes the cause sure with `compare_text`.

A break is reported where the tokens show that a conversation goes on but was written down differently:

- the prompt holds an earlier call's whole prompt, so the assistant speaks at the same place, but goes on with something
  else than what that call sampled (retokenised, another tool-call rendering, thinking left out, edited);
- the prompt begins like an earlier one, departs from it, joins it again, and holds the answer it got (history
  truncated, text before it changed).

Other prompts that merely begin alike are other agents or other tasks, and no break.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from agentlightning.types import BreakKind, PrefixBreak, TokenCall
from agentlightning.types.tokens import Int32

RUN = 4
"""So many equal tokens in a row count as the same text again within an answer."""
LONG_RUN = 8
"""The same within a prompt, where templates repeat short runs between messages."""
MAX_ADDED = 64
"""Longest insertion, in tokens, behind which the same text is looked for."""
UNJOINED = 32
"""So many differing tokens are kept where the texts do not run alike again."""
_HALF = "\ufffd"
"""What a decoder writes for bytes that are no whole character."""


def find_break(calls: Sequence[TokenCall], call: TokenCall, parent: int | None) -> PrefixBreak | None:
    """How `call` fails to continue one of the earlier `calls` of its model, or `None`.

    Args:
        calls: The earlier calls; the new one's turn is their number.
        call: The new one.
        parent: The turn that it continues exactly, if there is one.
    """
    known = 0 if parent is None else _size(calls[parent])
    most, found = max(known, RUN) - 1, None  # tokens shared, with which turn
    for turn in range(len(calls) - 1, -1, -1):
        earlier = calls[turn]
        size = _size(earlier)
        if size <= most or len(call.prompt_ids) <= most or earlier.model != call.model:
            continue
        if most > 0 and context_of(earlier, most - 1) != call.prompt_ids[most - 1]:
            continue  # shares less than another; one look instead of a comparison of all
        shared = _shared(call.prompt_ids, earlier)
        if most < shared < size and shared < len(call.prompt_ids):
            in_answer = shared >= len(earlier.prompt_ids)
            if in_answer or (parent is None and _goes_on(call.prompt_ids, earlier, shared)):
                most, found = shared, turn
    return None if found is None else _describe(call.prompt_ids, len(calls), calls[found], found, most)


def compare_text(found: PrefixBreak, decode: Callable[[Sequence[int]], str]) -> PrefixBreak:
    """The break with its cause made sure by text: the same text in other tokens is a retokenisation.

    Args:
        found: A break.
        decode: Token ids -> text, special tokens included.
    """
    removed, added = decode(found.removed.tolist()), decode(found.added.tolist())
    # Where they don't rejoin, each is the beginning of what comes, and may end in the middle of a character.
    shorter, longer = sorted((removed.rstrip(_HALF), added.rstrip(_HALF)), key=len)
    if removed == added if found.rejoins else shorter and longer.startswith(shorter):
        return replace(found, kind="retokenised", reason="the same text came back as other tokens")
    if found.kind == "retokenised":
        return replace(found, kind="edited", reason="the answer's text was changed by the template or the agent")
    return found


def context_of(call: TokenCall, position: int) -> int:
    """Token at `position` of the call's prompt and response."""
    start = len(call.prompt_ids)
    return int(call.prompt_ids[position] if position < start else call.response_ids[position - start])


def _size(call: TokenCall) -> int:
    return len(call.prompt_ids) + len(call.response_ids)


def _shared(prompt: Int32, earlier: TokenCall) -> int:
    """Length of the common prefix of `prompt` and the earlier call's context."""
    start = len(earlier.prompt_ids)
    shared = _common(prompt, earlier.prompt_ids)
    return shared if shared < start else start + _common(prompt[start:], earlier.response_ids)


def _common(a: Int32, b: Int32) -> int:
    size = min(len(a), len(b))
    for end in (min(64, size), size):  # most pairs differ early
        differing = a[:end] != b[:end]
        if differing.any():
            return int(differing.argmax())
    return size


def _goes_on(prompt: Int32, earlier: TokenCall, shared: int) -> bool:
    """Whether `prompt` holds the earlier call's answer further down, and its text joins the earlier one again."""
    answer = earlier.response_ids
    return (
        len(answer) >= RUN
        and _find(prompt[shared:], answer) is not None
        and _rejoins(np.concatenate([earlier.prompt_ids, answer]), prompt, shared, LONG_RUN) is not None
    )


def _find(tokens: Int32, wanted: Int32) -> int | None:
    """Where `wanted` begins within `tokens`."""
    haystack, needle, at = tokens.tobytes(), wanted.tobytes(), -1
    while (at := haystack.find(needle, at + 1)) >= 0:
        if at % tokens.itemsize == 0:
            return at // tokens.itemsize
    return None


def _rejoins(old: Int32, new: Int32, at: int, run: int) -> tuple[int, int] | None:
    """How many tokens of `old` fall away and how many of `new` come in until both run alike again."""
    for added in range(min(MAX_ADDED, len(new) - at - run) + 1):
        removed = _find(old[at:], new[at + added : at + added + run])
        if removed is not None:
            return removed, added
    return None


def _describe(prompt: Int32, turn: int, earlier: TokenCall, earlier_turn: int, shared: int) -> PrefixBreak:
    old = np.concatenate([earlier.prompt_ids, earlier.response_ids])
    in_answer = shared >= len(earlier.prompt_ids)
    rejoined = _rejoins(old, prompt, shared, RUN if in_answer else LONG_RUN)
    if in_answer and shared == len(old) - 1:
        rejoined = (1, 1)
        kind, reason = "template", "only the answer's last token differs: the template writes another end token"
    elif in_answer:
        kind, reason = _cause_in_answer(rejoined, earlier.finish_reason)
    else:
        kind, reason = _cause_in_prompt(rejoined)
    removed, added = rejoined or (UNJOINED, UNJOINED)
    return PrefixBreak(
        turn=turn,
        earlier=earlier_turn,
        position=shared,
        in_answer=in_answer,
        removed=old[shared : shared + removed].copy(),
        added=prompt[shared : shared + added].copy(),
        rejoins=rejoined is not None,
        kind=kind,
        reason=reason,
    )


def _cause_in_answer(rejoined: tuple[int, int] | None, finish_reason: str) -> tuple[BreakKind, str]:
    removed, added = rejoined or (0, 0)
    if added == 0 and removed > 0:
        left_out = f"{_tokens(removed)} of the answer left out"
        return "template", f"{left_out}: a template that drops thinking, or an edited answer"
    if removed == 0 and added > 0:
        return "template", f"{_tokens(added)} put into the answer by the template or the agent"
    if finish_reason == "tool_calls":
        return "tool_call", "the answer was a tool call: the template renders it in another form than the model did"
    if removed >= 2 * LONG_RUN and removed >= 4 * added:
        return "template", f"{_tokens(removed)} of the answer became {added}: a template that drops thinking"
    return "retokenised", "the answer came back as other tokens, or the agent changed it"


def _cause_in_prompt(rejoined: tuple[int, int] | None) -> tuple[BreakKind, str]:
    removed, added = rejoined or (0, 0)
    if added == 0 and removed > 0:
        return "truncated", f"{_tokens(removed)} left out: truncated history"
    if removed == 0 and added > 0:
        return "template", f"{_tokens(added)} put in: a template that depends on the turn, or an edited history"
    return "template", "earlier text was written anew: a template that depends on the turn, or an edited history"


def _tokens(count: int) -> str:
    return f"{count} {'token' if count == 1 else 'tokens'}"
