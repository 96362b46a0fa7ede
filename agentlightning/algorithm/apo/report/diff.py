"""`word_diff`: what was changed between two texts, word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Literal

Kind = Literal["same", "gone", "new"]
_WORDS = re.compile(r"\s+|[^\s]+")
_LINES = re.compile(r".*\n|.+")
_MOST = 4_000_000
"""Pairs of words to compare; longer texts are compared by lines, which takes seconds less."""


@lru_cache(maxsize=32)  # a report is written after each round, and the best changes seldom
def word_diff(old: str, new: str) -> list[tuple[Kind, str]]:
    """Pieces in reading order; those that are `gone` stand before what came in their place."""
    one, two = _WORDS.findall(old), _WORDS.findall(new)
    if len(one) * len(two) > _MOST:
        one, two = _LINES.findall(old), _LINES.findall(new)
    pieces: list[tuple[Kind, str]] = []
    for what, i, j, k, m in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if what == "equal":
            _add(pieces, "same", one[i:j])
        else:
            _add(pieces, "gone", one[i:j])
            _add(pieces, "new", two[k:m])
    return pieces


def _add(pieces: list[tuple[Kind, str]], kind: Kind, words: Sequence[str]) -> None:
    if words:
        pieces.append((kind, "".join(words)))
