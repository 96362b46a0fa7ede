"""A streamed chat completion as the events of a Response. Made by `interface`, one for each stream.

What arrives goes out at once as deltas. Items stay open until the whole answer is on record, since a piece of any of
them may still come; their `done` events and the Response's own stand at the end.
"""

from __future__ import annotations

from typing import Any

from ...backend import Json
from ..base import well_formed
from .answers import (
    call_item,
    finished,
    first_choice,
    message_item,
    opened,
    output_items,
    reasoning_item,
    reasoning_of,
    text_logprobs,
)
from .ids import answer_key
from .requests import wants_logprobs

_ARGUMENTS = "arguments"
_PREFIX = {
    "output_text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning_text": "response.reasoning_text",
    _ARGUMENTS: "response.function_call_arguments",
}
"""How the names of a slot's events begin. A slot is a content part, by its type, or a function call's arguments."""


class ResponsesTranslator:
    """See `Translator`.

    Args:
        body: The request.
    """

    def __init__(self, body: Json) -> None:
        self._body = body
        self._with_logprobs = wants_logprobs(body)
        self._count = 0
        self._key = ""
        self._response: Json = {}
        self._places: dict[str, int] = {}  # by item id: its place in the output
        self._sent: dict[str, dict[str, int]] = {}  # by item id and slot: how many characters went out
        self._calls: dict[Any, Json] = {}  # by index in the chunks: what is known of a function call
        self._call_ids: dict[str, str] = {}

    def feed(self, chunk: Json) -> list[Json]:
        """See `Translator`."""
        with well_formed():
            events = self._begin(chunk)
            for choice in chunk.get("choices") or []:
                if choice.get("index") in (None, 0):
                    events += self._delta(choice, choice.get("delta") or {})
            return events

    def end(self, response: Json) -> list[Json]:
        """See `Translator`. What the chunks did not bring comes first, so that the deltas are always the whole."""
        with well_formed():
            events = self._begin(response)
            items = output_items(first_choice(response), self._key, self._with_logprobs)
            for item in items:
                if item["id"] in self._call_ids:
                    item["call_id"] = self._call_ids[item["id"]]
                events += self._catch_up(item)
            items.sort(key=lambda item: self._places[item["id"]])
            final = finished(self._response, response, items)
            for item in final["output"]:
                events += self._done(item)
            return [*events, self._event(f"response.{final['status']}", response=final)]

    def _begin(self, chunk: Json) -> list[Json]:
        if self._response:
            return []
        self._key = answer_key(chunk)
        self._response = opened(self._body, chunk, self._key)
        return [self._event(f"response.{name}", response=self._response) for name in ("created", "in_progress")]

    def _event(self, kind: str, **fields: Any) -> Json:
        self._count += 1
        return {"type": kind, "sequence_number": self._count - 1, **fields}

    def _delta(self, choice: Json, delta: Json) -> list[Json]:
        events: list[Json] = []
        if thought := reasoning_of(delta):
            events += self._say(reasoning_item(self._key, []), "reasoning_text", thought)
        if delta.get("content"):
            logprobs = text_logprobs(choice) if self._with_logprobs else []
            events += self._say(message_item(self._key, []), "output_text", delta["content"], logprobs)
        if delta.get("refusal"):
            events += self._say(message_item(self._key, []), "refusal", delta["refusal"])
        for call in delta.get("tool_calls") or []:
            events += self._call(call)
        return events

    def _call(self, piece: Json) -> list[Json]:
        index = piece.get("index")
        fresh = {"number": len(self._calls), "id": None, "name": "", "held": ""}
        call = self._calls.setdefault(len(self._calls) if index is None else index, fresh)
        function: Json = piece.get("function") or {}
        call["id"] = call["id"] or piece.get("id")
        call["name"] = call["name"] or function.get("name") or ""
        call["held"] += function.get("arguments") or ""
        if not call["name"]:
            return []  # the item can't begin without it
        known = {"id": call["id"], "function": {"name": call["name"]}}
        item = call_item(known, self._key, call["number"])
        text, call["held"] = call["held"], ""
        self._call_ids.setdefault(item["id"], item["call_id"])
        return self._say(item, _ARGUMENTS, text)

    def _say(self, item: Json, slot: str, text: str, logprobs: list[Json] | None = None) -> list[Json]:
        """Text of one slot, after what has to be announced before it."""
        events = self._announce(item, slot)
        if not text:
            return events
        self._sent[item["id"]][slot] += len(text)
        fields = {"logprobs": logprobs or []} if slot == "output_text" else {}
        return [*events, self._event(f"{_PREFIX[slot]}.delta", **self._where(item, slot), delta=text, **fields)]

    def _announce(self, item: Json, slot: str) -> list[Json]:
        events: list[Json] = []
        identity = item["id"]
        if identity not in self._places:
            self._places[identity] = len(self._places)
            self._sent[identity] = {}
            blank = {_ARGUMENTS: ""} if slot == _ARGUMENTS else {"content": []}
            begun = {**item, "status": "in_progress", **blank}
            events.append(self._event("response.output_item.added", output_index=self._places[identity], item=begun))
        if slot not in self._sent[identity]:
            self._sent[identity][slot] = 0
            if slot != _ARGUMENTS:
                part = _empty_part(slot)
                events.append(self._event("response.content_part.added", **self._where(item, slot), part=part))
        return events

    def _where(self, item: Json, slot: str) -> Json:
        found: Json = {"item_id": item["id"], "output_index": self._places[item["id"]]}
        if slot != _ARGUMENTS:
            found["content_index"] = list(self._sent[item["id"]]).index(slot)
        return found

    def _catch_up(self, item: Json) -> list[Json]:
        """Begin what has not begun, and send what has not been sent."""
        events: list[Json] = []
        for slot, text in _slots(item):
            events += self._announce(item, slot)
            events += self._say(item, slot, text[self._sent[item["id"]][slot] :])
        if "content" in item:
            parts: list[Json] = item["content"]
            parts.sort(key=lambda part: self._where(item, part["type"])["content_index"])
        return events

    def _done(self, item: Json) -> list[Json]:
        events: list[Json] = []
        for part in item.get("content") or []:
            slot = part["type"]
            said = {"refusal": part["refusal"]} if slot == "refusal" else {"text": part["text"]}
            if slot == "output_text":
                said["logprobs"] = part["logprobs"]
            where = self._where(item, slot)
            events.append(self._event(f"{_PREFIX[slot]}.done", **where, **said))
            events.append(self._event("response.content_part.done", **where, part=part))
        if item["type"] == "function_call":
            said = {"name": item["name"], "arguments": item[_ARGUMENTS]}
            events.append(self._event(f"{_PREFIX[_ARGUMENTS]}.done", **self._where(item, _ARGUMENTS), **said))
        return [*events, self._event("response.output_item.done", output_index=self._places[item["id"]], item=item)]


def _slots(item: Json) -> list[tuple[str, str]]:
    """The slots of a whole item and what they say."""
    if item["type"] == "function_call":
        return [(_ARGUMENTS, item[_ARGUMENTS])]
    return [(part["type"], part["refusal"] if part["type"] == "refusal" else part["text"]) for part in item["content"]]


def _empty_part(slot: str) -> Json:
    if slot == "refusal":
        return {"type": slot, "refusal": ""}
    return {"type": slot, "text": ""} | ({"annotations": [], "logprobs": []} if slot == "output_text" else {})
