"""From sampled tokens to text, piece by piece: half characters and what may become a stop string are held back.

Called by `answer.py` for whole answers and streamed ones alike, so that both are the same text. Whatever the pieces,
what `TextReader.feed` and `finish` return adds up to the decoded response, cut at the first stop string.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

UNDECODABLE = "\ufffd"
"""What tokenizers put for bytes that are no character, or not one yet."""
WINDOW = 16
"""Tokens decoded together; the longer, the rarer the start of the window moves, which costs a decoding."""


class Vocabulary:
    """A tokenizer as answers need it.

    Args:
        tokenizer: The model's.
        end_ids: Tokens that end every response; they have no text.
    """

    def __init__(self, tokenizer: Any, end_ids: Iterable[int]):
        self._tokenizer = tokenizer
        self.end_ids = frozenset(end_ids)
        self.byte_ids = _byte_ids(tokenizer)
        """Tokens that are one byte each. A run of them is decoded as a whole: valid, or not a character at all."""
        self.token = lru_cache(maxsize=1 << 16)(self._token)
        """The text of a token by itself, and its bytes; `None` where it is only a part of a character."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included: the next prompt must begin with the tokens that were sampled."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _token(self, token: int) -> tuple[str, list[int] | None]:
        text = self.decode([token])
        return text, None if UNDECODABLE in text else list(text.encode())


class Detokenizer:
    """Decodes a growing list of tokens. Text that it gave is never taken back.

    The tokens before the window are decoded again with the new ones as long as they can have a say: some tokenizers
    drop the space before the first token that they are given.
    """

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        """The window."""
        self._border = 0
        """The last place in the window where a character ended, that of its end left out."""
        self._given = 0
        """Characters of the window's text that were given."""
        self._held = False

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is certain, now that `ids` came."""
        self._ids += ids
        end = len(self._ids)
        while end and self._ids[end - 1] in self._vocabulary.byte_ids:
            end -= 1
        text = self._vocabulary.decode(self._ids[:end])
        # The first bytes of a character are decoded to one such mark, whatever their number.
        sure = len(text) - text.endswith(UNDECODABLE)
        self._held = sure < len(text) or end < len(self._ids)
        new, self._given = text[self._given : sure], max(self._given, sure)
        if not self._held:
            self._move_window()
        return new

    def finish(self) -> str:
        """The rest: bytes that never became a character."""
        if not self._held:
            return ""
        self._held = False
        return self._vocabulary.decode(self._ids)[self._given :]

    def _move_window(self) -> None:
        if len(self._ids) > WINDOW and self._border:
            kept = self._ids[self._border :]
            given = len(self._vocabulary.decode(kept))
            if given:  # a window without text would not show what the tokenizer drops at its start
                self._ids, self._given = kept, given
        self._border = len(self._ids)


class StopCutter:
    """Ends a text before the first stop string."""

    def __init__(self, stops: Sequence[str]):
        self._stops = stops
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be given of the text so far."""
        self._held += text
        sure = len(self._held) - possible_start(self._held, self._stops)
        found = self._found()
        given, self._held = self._held[: min(sure, found)], self._held[min(sure, found) :]
        return given

    def finish(self) -> str:
        """The rest of a text that is complete."""
        given, self._held = self._held[: self._found()], ""
        return given

    def _found(self) -> int:
        """Where the first stop string begins, else the end."""
        return min((at for at in map(self._held.find, self._stops) if at >= 0), default=len(self._held))


class TextReader:
    """The text of one response, without its end token and up to the first stop string."""

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str]):
        self._end_ids = vocabulary.end_ids
        self._detokenizer = Detokenizer(vocabulary)
        self._cutter = StopCutter(stops)

    def feed(self, ids: Sequence[int]) -> str:
        """The text that is certain, now that `ids` came."""
        return self._cutter.feed(self._detokenizer.feed(token for token in ids if token not in self._end_ids))

    def finish(self) -> str:
        """The rest."""
        return self._cutter.feed(self._detokenizer.finish()) + self._cutter.finish()


def possible_start(text: str, patterns: Iterable[str]) -> int:
    """How many characters at the end of a text may be the beginning of a pattern that goes on after it."""
    longest = 0
    for pattern in patterns:
        for size in range(min(len(pattern) - 1, len(text)), longest, -1):
            if text.endswith(pattern[:size]):
                longest = size
                break
    return longest


def _byte_ids(tokenizer: Any) -> frozenset[int]:
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    ids: list[Any] = tokenizer.convert_tokens_to_ids(names)
    found = [(token, name) for token, name in zip(ids, names, strict=True) if token is not None]
    back: list[str] = tokenizer.convert_ids_to_tokens([token for token, _ in found])
    return frozenset(token for (token, name), same in zip(found, back, strict=True) if same == name)
