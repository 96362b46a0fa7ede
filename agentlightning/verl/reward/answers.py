"""Where the final answer stands in a text: after `####`, in a box, after `Answer:`. Called by `rules`."""

from __future__ import annotations

import re

TAIL = 300
"""Characters at the end of an answer in which its result is looked for (but for a box), as in verl: what a model says
on the way is not its answer, and a long text costs nothing."""

_HASHES = re.compile(r"#### (-?[0-9.,]+)")
_ANSWER = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\b\s*")


def after_hashes(text: str) -> str | None:
    """The number behind the last `#### `, without thousands separators; `None` where there is none."""
    found = _HASHES.findall(text[-TAIL:])
    return found[-1].replace(",", "") if found else None


def after_answer(text: str) -> str | None:
    """The rest of the line behind the last `Answer:` (in any case); `None` where there is none."""
    found = _ANSWER.findall(text[-TAIL:])
    return found[-1] if found else None


def boxed(text: str) -> str | None:
    r"""What is in the last `\boxed{...}` or `\fbox{...}`, or behind `\boxed ` up to a `$`; `None` where there is none.

    A box that is not closed counts as none.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if not text.startswith("{", start):
        return text[start:].split("$")[0].strip() or None
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position]
    return None
