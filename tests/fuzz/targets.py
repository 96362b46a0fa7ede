"""The parsers as functions of bytes, for fuzzers that know nothing else: each may refuse, none may fail otherwise.

`__main__` runs one under atheris, which looks for bytes that reach new code; `test_targets` runs all on a few bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import orjson

from agentlightning.llm_proxy.backends.assemble import Assembler
from agentlightning.llm_proxy.backends.sse import EventParser
from agentlightning.llm_proxy.backends.tokens import Sampled, token_calls
from agentlightning.llm_proxy.body import parse_body
from agentlightning.llm_proxy.dialects import INTERFACES, TRANSLATED, well_formed
from agentlightning.llm_proxy.dialects.messages.chunks import ChunkWriter, MessageReader
from agentlightning.llm_proxy.dialects.messages.messages_request import messages_request
from agentlightning.llm_proxy.streams import StreamWriter
from agentlightning.store.server.otlp import _read_json, _read_protobuf  # pyright: ignore[reportPrivateUsage]
from agentlightning.store.server.otlp_spans import spans_of
from agentlightning.types import RequestError, TokenCall

from . import seeds

Json = dict[str, Any]
SAMPLED = Sampled("m", 1.0, True, 0)
STREAMED = {name: {"model": "m", "stream": True, "input": "x", "messages": []} for name in TRANSLATED}


def events(data: bytes) -> Iterator[Json]:
    """The events of a stream that comes in pieces: the first byte says how long they are."""
    parser, size = EventParser("here", 10_000), data[0] % 50 + 1 if data else 1
    for at in range(1, len(data), size):
        yield from parser.feed(data[at : at + size])
    if not parser.done:
        yield from parser.end()


def stream(data: bytes) -> None:
    """A stream of chat completions, to its answer and tokens, and to events of the other interfaces."""
    assembler = Assembler("here", "chat")
    writers = [StreamWriter(one, one.translator(STREAMED[name])) for name, one in TRANSLATED.items()]
    for chunk in events(data):
        assembler.feed(chunk)
        for writer in writers:
            writer.feed(chunk)
    response = assembler.response()
    token_calls("here", response, SAMPLED)
    for writer in writers:
        writer.end(response)


def completions(data: bytes) -> None:
    """A stream of completions."""
    assembler = Assembler("here", "completions")
    for chunk in events(data):
        assembler.feed(chunk)
    token_calls("here", assembler.response(), SAMPLED)


def messages(data: bytes) -> None:
    """A stream of Anthropic's, to its answer and to chunks."""
    reader, writer = MessageReader(), ChunkWriter(with_usage=True)
    for event in events(data):
        reader.feed(event)
        writer.feed(event, reader)
    TRANSLATED["messages"].answer_to_chat(reader.message)


def answers(data: bytes) -> None:
    """A whole answer: a chat completion in each interface, and one of each interface as a chat completion."""
    value = orjson.loads(data)
    if not isinstance(value, dict):
        return
    for name, interface in TRANSLATED.items():
        for translate in (interface.answer_to_chat, partial(interface.from_chat, STREAMED[name])):
            with suppress(RequestError), well_formed():
                translate(value)


def requests(data: bytes) -> None:
    """A request of each interface, as chat completion and as Message."""
    for interface in INTERFACES:
        with suppress(RequestError):
            body = parse_body(data, interface)
            chat = TRANSLATED[interface.name].to_chat(body) if interface.name in TRANSLATED else body
            if interface.name != "embeddings":
                messages_request(chat)


def otlp_json(data: bytes) -> None:
    """An export as JSON."""
    for _ in spans_of(_read_json(data)):
        pass


def otlp_protobuf(data: bytes) -> None:
    """An export as protobuf."""
    for _ in spans_of(_read_protobuf(data)):
        pass


def token_call(data: bytes) -> None:
    """The tokens of a span, as the store keeps them."""
    TokenCall.from_bytes(data).to_bytes()


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "stream": (stream, seeds.CHAT_STREAMS),
    "completions": (completions, seeds.COMPLETION_STREAMS),
    "messages": (messages, seeds.MESSAGE_STREAMS),
    "answers": (answers, seeds.ANSWERS),
    "requests": (requests, seeds.REQUESTS),
    "otlp_json": (otlp_json, seeds.OTLP_JSON),
    "otlp_protobuf": (otlp_protobuf, seeds.OTLP_PROTOBUF),
    "token_call": (token_call, seeds.TOKEN_CALLS),
}
"""By name: the function, and good bytes to begin with."""


def run(name: str, data: bytes) -> None:
    """Run a target; what it may refuse with is no failure."""
    try:
        TARGETS[name][0](data)
    except (RequestError, orjson.JSONDecodeError):
        pass
    except ValueError:
        if name != "token_call":
            raise
