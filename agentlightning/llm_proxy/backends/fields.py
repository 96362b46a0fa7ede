"""What a backend adds to requests, takes out of answers, and learns that its endpoint refuses. Used by `openai`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import orjson

from ..backend import Dialect, Json
from .upstream import UpstreamError

_RENAMED = "max_tokens"
_NEW_NAME = "max_completion_tokens"
_OPTIONS = "stream_options"


class Fields:
    """The fields that only the gateway wants.

    Args:
        ask: By dialect: fields that ask for tokens, and their values.
        answered: By such a field: the keys of the answer and of its choices that it brings.
    """

    def __init__(self, ask: Mapping[Dialect, Json], answered: Mapping[str, tuple[str, ...]]) -> None:
        self._refused: dict[bool, frozenset[str]] = {True: frozenset(), False: frozenset()}
        # By whether a stream is wanted: SGLang refuses in streams only.
        self._ask = ask
        self._answered = answered

    def request(self, dialect: Dialect, body: Json, dropped: frozenset[str] = frozenset()) -> Json:
        """The request to send for `body`, without what is refused and without `dropped`."""
        left_out = self._refused[bool(body.get("stream"))] | dropped
        added = {name: value for name, value in self._added(dialect, body).items() if name not in left_out}
        sent = {**body, **added}
        if sent.get("temperature", 1.0) is None:
            del sent["temperature"]
        if _RENAMED in left_out and _RENAMED in sent:
            sent.setdefault(_NEW_NAME, sent.pop(_RENAMED))
        return sent

    def learn(self, body: Json, dropped: frozenset[str]) -> None:
        """Send `dropped` no longer with requests like `body`, unless the agent sends them."""
        self._refused[bool(body.get("stream"))] |= dropped

    def named_in(self, error: UpstreamError, dialect: Dialect, body: Json, sent: Json) -> str | None:
        """The field of ours that an endpoint's refusal of `sent` speaks of first; `None`: it is about the agent's."""
        if error.status not in (400, 422):
            return None
        answer = error.to_body()
        text = orjson.dumps(answer).decode()
        ours = [name for name in self._added(dialect, body) if name in sent]
        if _RENAMED in sent and _NEW_NAME in text:  # OpenAI's reasoning models
            ours.append(_RENAMED)
        told = answer.get("error")
        param = cast("dict[str, Any]", told).get("param") if isinstance(told, dict) else None
        if param in ours:
            return str(param)
        found = re.search("|".join(rf"\b{name}\b" for name in ours), text) if ours else None
        return found[0] if found else None

    def strip(self, answer: Json, body: Json) -> None:
        """Take out of an answer or a chunk, in place, the tokens that the agent did not ask for."""
        choices: list[Json] = answer.get("choices") or []
        for field, keys in self._answered.items():
            if not _wants(body, field):
                for key in keys:
                    answer.pop(key, None)
                    for choice in choices:
                        choice.pop(key, None)
        if not _wants(body, "logprobs"):
            for choice in choices:
                if "logprobs" in choice:
                    choice["logprobs"] = None

    def _added(self, dialect: Dialect, body: Json) -> Json:
        added = {name: value for name, value in self._ask[dialect].items() if not _wants(body, name)}
        if body.get("temperature") is None:
            added["temperature"] = 1.0
        if body.get("stream") and not wants_usage(body):
            added[_OPTIONS] = {**_options(body), "include_usage": True}
        return added


def wants_usage(body: Json) -> bool:
    """Whether the agent wants the usage at the end of its stream."""
    return bool(_options(body).get("include_usage"))


def strip_usage(chunk: Json) -> bool:
    """Take the usage out of a chunk, in place. Returns whether anything is left to show."""
    usage = chunk.pop("usage", None)
    return usage is None or bool(chunk.get("choices"))


def _options(body: Json) -> Json:
    options = body.get(_OPTIONS)
    return cast("Json", options) if isinstance(options, dict) else {}


def _wants(body: Json, field: str) -> bool:
    value = body.get(field)
    return value is not None and value is not False  # 0 asks for the log-probs of a completion
