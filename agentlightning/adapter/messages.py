"""Spans -> OpenAI messages: one conversation for each LLM call, for fine-tuning and for prompt optimisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from agentlightning.types import Span

from .base import TraceAdapter
from .reading import answer_messages, order, request_messages, tool_definitions, without_twins


class OpenAIMessages(TypedDict):
    """One line of OpenAI's fine-tuning format."""

    messages: list[dict[str, Any]]
    """The request's messages and, last, the answer's."""
    tools: list[dict[str, Any]] | None


class TraceToMessages(TraceAdapter[list[OpenAIMessages]]):
    """The messages of every LLM call, in order of `sequence_id`.

    Reads the gateway's spans, and those of instrumentations that flatten messages to `gen_ai.prompt.0.role`; there,
    tool calls that the answer lacks are taken from the spans of tools below it. A call that was recorded twice counts
    once, and each choice of a call has a conversation of its own.
    """

    def adapt(self, source: Sequence[Span], /) -> list[OpenAIMessages]:
        """The conversations of one attempt's spans."""
        found: list[OpenAIMessages] = []
        for span in without_twins([span for span in source if answer_messages(span)]):
            request, tools = request_messages(span), tool_definitions(span)
            calls = list(self.get_tool_calls(span, source))
            for message in answer_messages(span):
                if calls and not message.get("tool_calls"):
                    message = {**message, "tool_calls": calls}
                found.append({"messages": [*request, message], "tools": tools})
        return found

    def get_tool_calls(self, completion: Span, all_spans: Sequence[Span], /) -> Iterable[dict[str, Any]]:
        """The tool calls, in OpenAI's form, that spans directly below `completion` recorded."""
        for span in sorted(all_spans, key=order):
            name = span.attributes.get("tool.name")
            if span.parent_id == completion.span_id and name is not None:
                yield {
                    "id": span.attributes.get("tool.call.id"),
                    "type": span.attributes.get("tool.call.type", "function"),
                    "function": {"name": name, "arguments": span.attributes.get("tool.parameters", "{}")},
                }
