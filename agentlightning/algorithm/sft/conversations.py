"""Conversations as rows of tokens: assistant tokens are trained, all others are context.

The text is rendered by the model's own chat template and tokenised once, so that training sees what the engine will
see; which tokens are the assistant's is told from character offsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentlightning.inference.chat import messages_for_template
from agentlightning.learner.batch import Row
from agentlightning.types import DatasetError

Conversation = Mapping[str, Any]
"""`{"messages": [...], "tools": [...]}` in OpenAI's format."""


def encode(tokenizer: Any, conversations: Sequence[Conversation], *, max_length: int) -> list[Row]:
    """Rows whose mask is true on what the assistant says, the end token included. Weights are 1.

    Args:
        tokenizer: A fast Hugging Face tokenizer with a chat template.
        conversations: See `Conversation`.
        max_length: Longest row in tokens.

    Raises:
        DatasetError: a conversation has no assistant message, is too long, or its template does not extend: the
            rendering of the first messages must be the beginning of the rendering of all.
    """
    rendered = [_render(tokenizer, index, conversation) for index, conversation in enumerate(conversations)]
    if not rendered:
        raise DatasetError("there are no conversations to train on")
    encoded = tokenizer([text for text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True)
    rows: list[Row] = []
    for index, (ids, offsets) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
        if len(ids) > max_length:
            raise DatasetError(
                f"conversation {index} has {len(ids)} tokens, the limit is {max_length}; raise `max_length`"
            )
        starts = np.array([start for start, _ in offsets])
        mask = np.zeros(len(ids), np.bool_)
        for begin, end in rendered[index][1]:
            mask |= (starts >= begin) & (starts < end)
        rows.append(Row(np.array(ids, np.int32), mask, {}))
    return rows


def _render(tokenizer: Any, index: int, conversation: Conversation) -> tuple[str, list[tuple[int, int]]]:
    """The text, and the character ranges that the assistant says."""
    messages = messages_for_template(conversation["messages"])
    tools = conversation.get("tools") or None

    def text(upto: int, *, prompt: bool) -> str:
        return tokenizer.apply_chat_template(messages[:upto], tools=tools, tokenize=False, add_generation_prompt=prompt)

    whole = text(len(messages), prompt=False)
    ranges: list[tuple[int, int]] = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = text(turn, prompt=True), text(turn + 1, prompt=False)
        if not whole.startswith(after) or not after.startswith(before):
            raise DatasetError(
                f"conversation {index}, message {turn}: the chat template renders the beginning of a conversation "
                "differently once it goes on, so the assistant's tokens can't be told; use a template that only appends"
            )
        # The turn ends with the end token; what the template writes after it (a line break) is never sampled.
        stop = after.rfind(tokenizer.eos_token, len(before))
        ranges.append((len(before), len(after) if stop < 0 else stop + len(tokenizer.eos_token)))
    if not ranges:
        raise DatasetError(f"conversation {index} has no assistant message, so there is nothing to train")
    return whole, ranges
