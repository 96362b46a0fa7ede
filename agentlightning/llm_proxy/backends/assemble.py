"""Puts the chunks of a streamed answer together, and takes a whole answer apart into chunks.

Called by `openai` and `litellm` for `chat` and `completions`; `sglang` replays whole answers as streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

from agentlightning.types import RequestError

from ..backend import Json

_OBJECT = {"chat": "chat.completion", "completions": "text_completion"}
_WHOLE = frozenset({"role", "type", "id", "name"})
"""Strings that a delta gives at once; some servers repeat them. Others come in pieces."""
_MAX_DEPTH = 8  # a delta has three levels; deeper objects are taken as they are


class _Text(list[str]):
    """A string in pieces: joining once at the end is linear in its length."""


class _Calls(dict[int, Json]):
    """Tool calls by their index."""


class _Growing(Json):
    """An object that is put together here; others are taken as they are."""


class Assembler:
    """Builds the answer that a stream of chunks stands for, as it would have come without streaming.

    Args:
        source: The endpoint, for error messages.
        dialect: What the chunks are written in.
    """

    def __init__(self, source: str, dialect: Literal["chat", "completions"]) -> None:
        self._source = source
        self._dialect = dialect
        self._top: Json = {}
        self._choices: dict[int, Json] = {}

    def feed(self, chunk: Json) -> None:
        """Take the next chunk, which stays as it is.

        Raises:
            RequestError: 502, it is malformed.
        """
        try:
            for choice in chunk.get("choices") or []:
                self._choice(choice)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise self._broken(f"sent a malformed chunk ({type(error).__name__}: {error})") from error
        _replace(self._top, ((key, value) for key, value in chunk.items() if key != "choices"))

    def response(self) -> Json:
        """The whole answer. The chunks must have come to their end.

        Raises:
            RequestError: 502, a choice has no finish reason, or there is none.
        """
        if not self._choices:
            raise self._broken("ended its stream without an answer")
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices:
            if not choice.get("finish_reason"):
                raise self._broken(f"ended its stream early: choice {choice['index']} has no `finish_reason`")
        try:
            return self._top | {"object": _OBJECT[self._dialect], "choices": [_whole(choice) for choice in choices]}
        except TypeError as error:
            raise self._broken(f"sent chunks that don't fit each other: {error}") from error

    def _choice(self, part: Json) -> None:
        own = self._own(part["index"])
        for key, value in part.items():
            if key == "delta":
                _merge(own["message"], value or {}, 0)
            elif key in ("text", "logprobs", "token_ids"):
                _merge(own, {key: value}, 0)
            elif key != "index":
                _replace(own, [(key, value)])

    def _own(self, index: Any) -> Json:
        if type(index) is not int:
            raise TypeError(f"`index` of a choice must be a number, not {index!r}")
        if index not in self._choices:
            self._choices[index] = _Growing(index=index)
            if self._dialect == "chat":
                self._choices[index]["message"] = _Growing(role="assistant", content=None)
        return self._choices[index]

    def _broken(self, what: str) -> RequestError:
        return RequestError(f"the backend at {self._source} {what}", status=502)


def _replace(into: Json, items: Iterable[tuple[str, Any]]) -> None:
    into.update((key, value) for key, value in items if value is not None or key not in into)


def _merge(into: Json, delta: Json, depth: int) -> None:
    """Add a delta: text and lists grow, objects grow field by field, all else is replaced."""
    for key, value in delta.items():
        have = into.get(key)
        if key == "tool_calls" and isinstance(value, list):
            into[key] = _merge_calls(have if isinstance(have, _Calls) else _Calls(), cast("list[Json]", value), depth)
        elif isinstance(value, str) and key not in _WHOLE:
            _text(into, key).append(value)
        elif isinstance(value, list):
            into[key] = [*cast("list[Any]", value)] if type(have) is not list else have
            if type(have) is list:
                have.extend(cast("list[Any]", value))
        elif isinstance(value, dict) and depth < _MAX_DEPTH:
            into[key] = have if isinstance(have, _Growing) else _Growing()
            _merge(into[key], cast("Json", value), depth + 1)
        elif value not in (None, "") or key not in into:
            into[key] = value


def _text(into: Json, key: str) -> _Text:
    have = into.get(key)
    if not isinstance(have, _Text):
        have = into[key] = _Text()
    return have


def _merge_calls(calls: _Calls, deltas: list[Json], depth: int) -> _Calls:
    for delta in deltas:
        index = delta.get("index")
        call = calls.setdefault(index if type(index) is int else _place(calls, delta.get("id")), _Growing())
        _merge(call, {key: value for key, value in delta.items() if key != "index"}, depth + 1)
    return calls


def _place(calls: _Calls, name: Any) -> int:
    """Where a part without an index belongs, as Gemini's endpoint sends them: one with a new `id` begins a call."""
    last = max(calls, default=0)
    if name is None or not calls:
        return last
    return next((index for index, call in calls.items() if call.get("id") == name), last + 1)


def _whole(value: Any) -> Any:
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, _Calls):
        return [_whole(value[index]) for index in sorted(value)]
    if isinstance(value, _Growing):
        return {key: _whole(each) for key, each in value.items()}
    return value


def split(response: Json, *, usage: bool) -> Iterator[Json]:
    """The chunks of a whole `chat` or `completions` answer: for each choice what it says, then why it ended.

    Args:
        response: The answer.
        usage: Whether a last chunk tells the usage, as with `stream_options.include_usage`.
    """
    chat = response.get("object") != _OBJECT["completions"]
    kind = "chat.completion.chunk" if chat else "text_completion"
    top = {key: value for key, value in response.items() if key not in ("choices", "usage")} | {"object": kind}
    for choice in response["choices"]:
        part = {key: choice[key] for key in ("logprobs", "token_ids", "prompt_token_ids") if key in choice}
        said = {"delta": _delta(choice["message"])} if chat else {"text": choice["text"]}
        yield {**top, "choices": [{"index": choice["index"], **said, **part, "finish_reason": None}]}
        top.pop("prompt_token_ids", None)  # in the first chunk only
        rest = {key: value for key, value in choice.items() if key not in ("message", "text", *part)}
        yield {**top, "choices": [{**({"delta": {}} if chat else {"text": ""}), **rest}]}
    if usage:
        yield {**top, "choices": [], "usage": response.get("usage")}


def _delta(message: Json) -> Json:
    calls = cast("list[Json] | None", message.get("tool_calls"))
    if not calls:
        return message
    return {**message, "tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]}
