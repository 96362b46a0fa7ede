"""Responses on the native engine: what the model sampled is, token for token, what the next request's prompt holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai.types.responses import Response

from agentlightning.inference import Engine
from agentlightning.inference.service import ChatService
from agentlightning.llm_proxy.dialects.responses import RESPONSES
from agentlightning.types import ChatReply, TokenCall
from tests.inference.conftest import CALLING, QUESTION, TOOLS, endless, start, tokenizer, trained

__all__ = ["endless", "start", "tokenizer", "trained"]  # fixtures

TOOL = {"type": "function", **TOOLS[0]["function"]}


async def ask(service: ChatService, items: list[Any], stream: bool) -> tuple[Response, TokenCall]:
    body = {"model": "tiny", "input": items, "tools": [TOOL], "temperature": 0, "max_output_tokens": 60}
    sent = RESPONSES.to_chat(body)
    if not stream:
        reply = await service.call("chat", sent)
        return Response.model_validate(RESPONSES.from_chat(body, reply.response)), reply.calls[0]
    translator = RESPONSES.translator(body)
    async for part in service.stream("chat", sent | {"stream": True}):
        if isinstance(part, ChatReply):
            return Response.model_validate(translator.end(part.response)[-1]["response"]), part.calls[0]
        translator.feed(part)
    raise AssertionError("the stream ended without a reply")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_is_the_same_tokens_in_the_next_prompt(
    start: Callable[..., Engine],
    trained: Any,
    tokenizer: Any,
    stream: bool,
) -> None:
    service = ChatService(start(trained, tokenizer=tokenizer), tokenizer, "tiny")
    items: list[Any] = [QUESTION]
    answer, first = await ask(service, items, stream)
    assert answer.output_text == CALLING["content"]
    (call,) = [item for item in answer.output if item.type == "function_call"]
    items += [item.to_dict() for item in answer.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "7"})
    answer, second = await ask(service, items, stream)
    assert answer.output_text == "### 7 ###"
    so_far = [*first.prompt_ids.tolist(), *first.response_ids.tolist()]
    assert second.prompt_ids.tolist()[: len(so_far)] == so_far
