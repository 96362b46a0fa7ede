"""The answer to a chat completion request, in OpenAI's form with vLLM's token ids.

Called by `service.py`; calls `text.py` and `tools.py`. Deviations of the stream from OpenAI's: a tool call comes in one
delta, as soon as it is complete, and where tools are offered the first delta's `content` is null, because it is not
yet known whether there will be any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agentlightning.types.tokens import Int32

from .answer import LOWEST, Answer
from .chat_request import ChatRequest
from .fields import Json
from .sampling import Generation, SamplingParams
from .streams import Piece
from .text import TextReader, Vocabulary
from .tools import ParsedCall, ToolCallReader


@dataclass(slots=True)
class _Choice:
    """One choice so far."""

    text: TextReader
    tools: ToolCallReader | None
    started: bool = False
    content: list[str] = field(default_factory=list[str])
    calls: list[Json] = field(default_factory=list[Json])
    logprobs: list[Json] = field(default_factory=list[Json])
    token_ids: list[int] = field(default_factory=list[int])
    finish_reason: str = ""


class ChatAnswer(Answer):
    """The answer to one chat completion request.

    Args:
        model: Name of the model that answers.
        vocabulary: Of the model.
        request: What was asked.
        requests: Prompt and sampling parameters of each choice; the prompt is the same in all.
    """

    ID = "chatcmpl"
    WHOLE = "chat.completion"
    CHUNK = "chat.completion.chunk"

    def __init__(
        self,
        model: str,
        vocabulary: Vocabulary,
        request: ChatRequest,
        requests: Sequence[tuple[Int32, SamplingParams]],
    ):
        self._prompt = requests[0][0]
        super().__init__(model, requests, prompt_tokens=len(self._prompt), include_usage=request.include_usage)
        self._vocabulary, self._request = vocabulary, request
        self._tell_prompt = request.return_token_ids
        tools = request.tools is not None
        self._choices = [
            _Choice(TextReader(vocabulary, request.params.stop), ToolCallReader() if tools else None) for _ in requests
        ]

    def response(self) -> Json:
        """The whole answer."""
        response = super().response()
        return response | {"prompt_token_ids": self._prompt.tolist()} if self._request.return_token_ids else response

    def _chunk(self, choice: Json, which: int) -> Json:
        chunk = super()._chunk(choice, which)
        if self._tell_prompt:
            self._tell_prompt = False
            chunk["prompt_token_ids"] = self._prompt.tolist()
        return chunk

    def _feed(self, which: int, piece: Piece) -> list[Json]:
        choice, made = self._choices[which], list[Json]()
        if not choice.started:
            choice.started = True
            opening = {"role": "assistant", "content": "" if choice.tools is None else None}
            made.append(self._delta(which, opening))
        text = choice.text.feed(piece.token_ids)
        deltas = self._read(which, [text] if choice.tools is None else choice.tools.feed(text))
        extra = self._extra(choice, piece)
        if extra and not deltas:
            deltas = [{}]
        made += [self._delta(which, delta) for delta in deltas]
        if extra:
            made[-1] |= extra
        return made

    def _finish(self, which: int, generation: Generation) -> list[Json]:
        choice = self._choices[which]
        text = choice.text.finish()
        rest = [text] if choice.tools is None else choice.tools.feed(text) + choice.tools.finish()
        deltas = self._read(which, rest)
        if choice.tools is not None and not choice.calls and not choice.content:
            deltas = [{"content": ""}]
        choice.finish_reason = generation.finish_reason
        if choice.calls and choice.finish_reason == "stop":
            choice.finish_reason = "tool_calls"
        return [*(self._delta(which, delta) for delta in deltas), self._delta(which, {}, choice.finish_reason)]

    def _choice(self, which: int) -> Json:
        choice = self._choices[which]
        content = "".join(choice.content)
        message: Json = {"role": "assistant", "content": (content or None) if choice.calls else content}
        if choice.calls:
            message["tool_calls"] = choice.calls
        logprobs = {"content": choice.logprobs} if self._request.logprobs else None
        made: Json = {"index": which, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}
        return made | {"token_ids": choice.token_ids} if self._request.return_token_ids else made

    def _read(self, which: int, found: Sequence[str | ParsedCall]) -> list[Json]:
        """The deltas of content and calls, which join the choice."""
        choice, deltas = self._choices[which], list[Json]()
        for item in found:
            if isinstance(item, ParsedCall):
                number = len(choice.calls)
                choice.calls.append(_tool_call(item, self._prompt, which, number))
                deltas.append({"tool_calls": [{"index": number} | choice.calls[-1]]})
            elif item:
                choice.content.append(item)
                deltas.append({"content": item})
        return deltas

    def _delta(self, which: int, delta: Json, finish_reason: str | None = None) -> Json:
        return {"index": which, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _extra(self, choice: _Choice, piece: Piece) -> Json:
        """What a chunk tells of tokens beside their text. They may be told before their text is certain."""
        extra: Json = {}
        if self._request.logprobs:
            entries = self._entries(piece)
            choice.logprobs += entries
            extra["logprobs"] = {"content": entries}
        if self._request.return_token_ids:
            choice.token_ids += piece.token_ids
            extra["token_ids"] = piece.token_ids
        return extra

    def _entries(self, piece: Piece) -> list[Json]:
        entries = [self._entry(*pair) for pair in zip(piece.token_ids, piece.logprobs, strict=True)]
        for at, entry in enumerate(entries):
            best = piece.likeliest[at] if piece.likeliest else ()
            entry["top_logprobs"] = [self._entry(token, max(logprob, LOWEST)) for token, logprob in best]
        return entries

    def _entry(self, token: int, logprob: float) -> Json:
        text, data = self._vocabulary.token(token)
        return {"token": text, "logprob": logprob, "bytes": data}


def _tool_call(call: ParsedCall, prompt: Int32, choice: int, number: int) -> Json:
    # Some templates write the ids of calls into the next prompt, so equal answers must have equal ids.
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    told: list[Any] = [choice, number, call.name, arguments]
    digest = hashlib.blake2b(prompt.tobytes() + json.dumps(told).encode(), digest_size=12).hexdigest()
    return {"id": f"call_{digest}", "type": "function", "function": {"name": call.name, "arguments": arguments}}
