"""`Retokenizer`: tokens for calls that came back without any, made again from their text.

Handed to the adapter by `VERL`, only where the user asks for it (`agentlightning.retokenize`): nobody knows whether
these are the tokens that were sampled, so they are counted.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from jinja2 import TemplateError

from agentlightning.adapter.reading import answer_messages, request_messages, tool_definitions
from agentlightning.inference.chat import messages_for_template
from agentlightning.semconv import GEN_AI_REQUEST_MODEL, GEN_AI_RESPONSE_FINISH_REASONS
from agentlightning.types import RequestError, Span, TokenCall

logger = logging.getLogger(__name__)


class Retokenizer:
    """Makes the tokens of a call from its messages, by a tokenizer's chat template.

    Args:
        tokenizer: Of the model in training, with a chat template.
        end_ids: The tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = end_ids

    def __call__(self, span: Span) -> TokenCall | None:
        """The call with its tokens and no log-probs.

        `None` where the template can't write the conversation, or writes the prompt in another way once the answer
        stands behind it, so that it is unclear where the answer begins.
        """
        request, answer, tools = request_messages(span), answer_messages(span), tool_definitions(span)
        try:
            prompt = self._render(request, tools, answer=False)
            whole = self._render([*request, *answer], tools, answer=True)
        except (RequestError, TemplateError) as error:
            logger.warning("call %s can't be tokenised again: %s", span.span_id, error)
            return None
        response = self._until_end(whole[len(prompt) :])
        if whole[: len(prompt)] != prompt or not response:
            logger.warning("call %s can't be tokenised again: its answer changes the prompt", span.span_id)
            return None
        reasons: Any = span.attributes.get(GEN_AI_RESPONSE_FINISH_REASONS)
        return TokenCall(
            model=str(span.attributes.get(GEN_AI_REQUEST_MODEL, "")),
            prompt_ids=np.array(prompt, np.int32),
            response_ids=np.array(response, np.int32),
            logprobs=None,
            finish_reason=str(reasons[0]) if isinstance(reasons, (list, tuple)) and reasons else "stop",
        )

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, *, answer: bool) -> list[int]:
        return self._tokenizer.apply_chat_template(
            messages_for_template(messages),
            tools=tools,
            tokenize=True,
            add_generation_prompt=not answer,
            return_dict=False,
        )

    def _until_end(self, response: list[int]) -> list[int]:
        """Up to the end token: what a template writes behind it was not sampled."""
        for at, token in enumerate(response):
            if token in self._end_ids:
                return response[: at + 1]
        return response
