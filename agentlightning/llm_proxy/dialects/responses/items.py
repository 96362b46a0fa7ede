"""The items of a Responses request as chat messages. Called by `requests`.

What was one answer must be one assistant message again, with its text and its calls as they were: only then does the
next prompt begin with the tokens that the model sampled. Ids that were made here say which items were one answer;
without them their order does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...backend import Json
from .checks import as_list, as_object, as_text, unsupported, wrong
from .ids import key_of

_TEXT = ("input_text", "output_text", "text")
_ROLES = ("user", "assistant", "system", "developer")


def chat_messages(items: list[Any]) -> list[Json]:
    """The conversation that `items` are.

    Raises:
        RequestError: 400 naming the item that is malformed or can't be said in chat completions.
    """
    turns: list[Json | _Answer] = []
    answer: _Answer | None = None
    for at, value in enumerate(items):
        where = f"input[{at}]"
        item = as_object(value, where)
        kind = _kind(item)
        if kind in ("assistant", "function_call", "reasoning"):
            key = key_of(item.get("id"))
            if answer is None or not answer.takes(kind, key):
                answer = _Answer()
                turns.append(answer)
            answer.add(kind, key, item, where)
            continue
        turns.append(_other(kind, item, where))
        if kind != "function_call_output":
            answer = None
        elif answer is not None:
            answer.closed = True
    written = [turn.message() if isinstance(turn, _Answer) else turn for turn in turns]
    return [message for message in written if message is not None]


def _kind(item: Json) -> Any:
    """The type of an item; of a message: its role where that is the assistant's."""
    kind = item.get("type") or ("message" if "role" in item else None)
    return "assistant" if kind == "message" and item.get("role") == "assistant" else kind


@dataclass(slots=True)
class _Answer:
    """An assistant message that is being put together."""

    key: str | None = None
    reasoning: list[str] | None = None
    text: str | None = None
    refusal: str | None = None
    calls: list[Json] = field(default_factory=list[Json])
    closed: bool = False
    """Whether outputs of its calls came. Some agents put each behind its call, so calls of this answer may follow."""

    def takes(self, kind: str, key: str | None) -> bool:
        """Whether an item belongs to this answer, or begins the next one."""
        same = key is not None and key == self.key
        if not same and (self.closed or (key and self.key)):
            return False
        said = self.text is not None or self.refusal is not None
        if kind == "assistant":
            return not said
        if kind == "reasoning":
            return self.reasoning is None if same else not (said or self.calls)
        return True

    def add(self, kind: str, key: str | None, item: Json, where: str) -> None:
        self.key = self.key or key
        if kind == "reasoning":
            self.reasoning = (self.reasoning or []) + _reasoning(item, where)
        elif kind == "function_call":
            self.calls.append(_call(item, where))
        else:
            self.text, self.refusal = _said(item, where)

    def message(self) -> Json | None:
        """As a chat message; `None` where there is nothing but reasoning that can't be read, since the server that made
        it has hidden it or summed it up."""
        if self.text is None and self.refusal is None and not self.calls and not self.reasoning:
            return None
        # A message without calls needs a content; beside calls none is null, as OpenAI's own answers have it.
        found: Json = {"role": "assistant", "content": self.text or (None if self.calls else "")}
        if self.reasoning:
            # One name is vLLM's, the other SGLang's and older servers'.
            found["reasoning"] = found["reasoning_content"] = "".join(self.reasoning)
        if self.refusal is not None:
            found["refusal"] = self.refusal
        if self.calls:
            found["tool_calls"] = self.calls
        return found


def _reasoning(item: Json, where: str) -> list[str]:
    content = item.get("content")
    parts = [] if content is None else as_list(content, f"{where}.content")
    return [_text_of(part, f"{where}.content[{at}]") for at, part in enumerate(parts)]


def _text_of(value: Any, where: str) -> str:
    return as_text(as_object(value, where).get("text"), f"{where}.text")


def _call(item: Json, where: str) -> Json:
    function = {name: as_text(item.get(name), f"{where}.{name}") for name in ("name", "arguments")}
    return {"id": as_text(item.get("call_id"), f"{where}.call_id"), "type": "function", "function": function}


def _said(item: Json, where: str) -> tuple[str | None, str | None]:
    """Text and refusal of an assistant's message; `None` where it has no such part."""
    content = item.get("content")
    if isinstance(content, str):
        return content, None
    texts: list[str] = []
    refusals: list[str] = []
    for at, value in enumerate(as_list(content, f"{where}.content")):
        place = f"{where}.content[{at}]"
        part = as_object(value, place)
        if part.get("type") == "refusal":
            refusals.append(as_text(part.get("refusal"), f"{place}.refusal"))
        elif part.get("type") in _TEXT:
            texts.append(_text_of(part, place))
        else:
            raise unsupported(f"{place}.type", f"is {part.get('type')!r:.100}; an assistant's message holds only text")
    return ("".join(texts) if texts or not refusals else None, "".join(refusals) if refusals else None)


def _other(kind: Any, item: Json, where: str) -> Json:
    """A message of anyone but the model, or the output of a function."""
    if kind == "message":
        if item.get("role") not in _ROLES:
            raise wrong(f"{where}.role", f"must be one of {', '.join(_ROLES)}", "invalid_value")
        return {"role": item["role"], "content": _content(item.get("content"), f"{where}.content")}
    if kind == "function_call_output":
        call = as_text(item.get("call_id"), f"{where}.call_id")
        return {"role": "tool", "tool_call_id": call, "content": _content(item.get("output"), f"{where}.output")}
    if kind == "item_reference" or (kind is None and "id" in item):
        raise unsupported(where, "refers to an item that is not kept; send the item itself")
    raise unsupported(
        f"{where}.type",
        f"is {kind!r:.100}; only `message`, `function_call`, `function_call_output` and `reasoning` can be passed on"
        " to a model behind this gateway",
    )


def _content(content: Any, where: str) -> str | list[Json]:
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{where}[{at}]") for at, part in enumerate(as_list(content, where))]
    # One text in a list is what most clients send; a string is what each server takes.
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(value: Any, where: str) -> Json:
    part = as_object(value, where)
    kind = part.get("type")
    if kind in _TEXT:
        return {"type": "text", "text": _text_of(part, where)}
    if kind == "input_image" and part.get("image_url") is not None:
        image = {"url": as_text(part["image_url"], f"{where}.image_url")}
        return {"type": "image_url", "image_url": image | _given(part, "detail")}
    if kind == "input_file" and part.get("file_data") is not None:
        return {"type": "file", "file": _given(part, "file_data", "filename")}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": as_object(part.get("input_audio"), f"{where}.input_audio")}
    if kind in ("input_image", "input_file"):
        raise unsupported(
            where, "must hold its data: `image_url` (a data URL will do) or `file_data`; no files are kept"
        )
    raise unsupported(f"{where}.type", f"is {kind!r:.100}, which chat completions do not know")


def _given(part: Json, *names: str) -> Json:
    return {name: part[name] for name in names if part.get(name) is not None}
