"""Finds out where and why a prompt does not continue an earlier call, from the tokens alone. Called by `graph`.

A break is reported where the tokens show that a conversation goes on but was written down differently:

- the prompt holds an earlier call's whole prompt, so the assistant speaks at the same place, but goes on with something
  else than what that call sampled (retokenised, another tool-call rendering, thinking left out, edited);
- the prompt begins like an earlier one, departs from it, joins it again, and holds the answer it got (history
  truncated, text before it changed).

Other prompts that merely begin alike are other agents or other tasks, and no break.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentlightning.types import TokenCall
from agentlightning.types.tokens import Int32

RUN = 4
"""So many equal tokens in a row count as the same text again within an answer."""
LONG_RUN = 8
"""The same within a prompt, where templates repeat short runs between messages."""
MAX_ADDED = 64
"""Longest insertion, in tokens, behind which the same text is looked for."""
SHOWN = 8
"""So many differing token ids are listed."""


def find_break(calls: Sequence[TokenCall], call: TokenCall, parent: int | None) -> str | None:
    """A line about how `call` fails to continue one of the earlier `calls`, or `None`.

    Args:
        calls: The earlier calls; the new one's turn is their number.
        call: The new one.
        parent: The turn that it continues exactly, if there is one.
    """
    known = 0 if parent is None else _size(calls[parent])
    best: tuple[int, int] | None = None  # (shared tokens, turn)
    for turn, earlier in enumerate(calls):
        if _size(earlier) <= known:
            continue
        shared = _shared(call.prompt_ids, earlier)
        if max(known, RUN) <= shared < _size(earlier) and shared < len(call.prompt_ids):
            in_answer = shared >= len(earlier.prompt_ids)
            if (in_answer or (parent is None and _goes_on(call.prompt_ids, earlier, shared))) and (
                best is None or shared >= best[0]
            ):
                best = (shared, turn)
    if best is None:
        return None
    shared, turn = best
    return f"turn {len(calls)}: {_describe(call.prompt_ids, calls[turn], turn, shared)}"


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


def _describe(prompt: Int32, earlier: TokenCall, turn: int, shared: int) -> str:
    old = np.concatenate([earlier.prompt_ids, earlier.response_ids])
    in_answer = shared >= len(earlier.prompt_ids)
    rejoined = _rejoins(old, prompt, shared, RUN if in_answer else LONG_RUN)
    removed, added = rejoined or (SHOWN, SHOWN)
    where = f"{shared - len(earlier.prompt_ids)} tokens into its answer" if in_answer else "within its prompt"
    return (
        f"the prompt departs from turn {turn} at token {shared} ({where}):"
        f" {_ids(old[shared : shared + removed])} became {_ids(prompt[shared : shared + added])};"
        f" {_reason(in_answer, rejoined, earlier.finish_reason, last=shared == len(old) - 1)}"
    )


def _reason(in_answer: bool, rejoined: tuple[int, int] | None, finish_reason: str, *, last: bool) -> str:
    if in_answer and last:
        return "only the answer's last token differs: the template writes another end token"
    if rejoined is not None and 0 in rejoined:
        removed, added = rejoined
        count = f"{removed + added} {'token' if removed + added == 1 else 'tokens'}"
        if not in_answer:
            return f"{count} left out: truncated history" if removed else f"{count} put in"
        left_out = f"{count} of the answer left out: a template that drops thinking, or an edited answer"
        return left_out if removed else f"{count} put into the answer by the template or the agent"
    if not in_answer:
        return "earlier text was written anew: a template that depends on the turn, or an edited history"
    if finish_reason == "tool_calls":
        return "the answer was a tool call: the template renders it in another form than the model did"
    return "the answer came back as other tokens: retokenised, or edited by the agent"


def _ids(tokens: Int32) -> str:
    listed = ", ".join(map(str, tokens[:SHOWN].tolist()))
    return f"[{listed}, ...]" if len(tokens) > SHOWN else f"[{listed}]"
