"""The answer to a completion request, in OpenAI's form with vLLM's token ids.

Called by `service.py`; calls `text.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentlightning.types.tokens import Int32

from .answer import LOWEST, Answer
from .completion_request import CompletionRequest
from .fields import Json
from .sampling import Generation, SamplingParams
from .streams import Piece
from .text import TextReader, Vocabulary


@dataclass(slots=True)
class _Choice:
    """One choice so far."""

    text: TextReader
    tell_prompt: bool
    """Whether the ids of the prompt are still to be told to who streams."""
    read: list[str] = field(default_factory=list[str])
    logprobs: Json = field(default_factory=Json)
    """In OpenAI's legacy form, lists by name."""
    offset: int = 0
    """Characters of the tokens that `logprobs` tells."""
    token_ids: list[int] = field(default_factory=list[int])
    finish_reason: str = ""


class CompletionAnswer(Answer):
    """The answer to one completion request.

    Args:
        model: Name of the model that answers.
        vocabulary: Of the model.
        request: What was asked.
        requests: Prompt and sampling parameters of each choice, the `n` of a prompt in a row.
    """

    ID = "cmpl"
    WHOLE = CHUNK = "text_completion"

    def __init__(
        self,
        model: str,
        vocabulary: Vocabulary,
        request: CompletionRequest,
        requests: Sequence[tuple[Int32, SamplingParams]],
    ):
        tokens = sum(len(prompt) for prompt, _ in requests) // request.n
        super().__init__(model, requests, prompt_tokens=tokens, include_usage=request.include_usage)
        self._vocabulary, self._request = vocabulary, request
        self._choices = [
            _Choice(TextReader(vocabulary, request.params.stop), request.return_token_ids) for _ in requests
        ]

    def _feed(self, which: int, piece: Piece) -> list[Json]:
        choice = self._choices[which]
        made = self._made(which, choice.text.feed(piece.token_ids))
        if self._request.logprobs:
            made["logprobs"] = self._logprobs(choice, piece)
            for name, values in made["logprobs"].items():
                choice.logprobs[name] = values if values is None else [*choice.logprobs.get(name, []), *values]
        if self._request.return_token_ids:
            choice.token_ids += piece.token_ids
            made |= {"token_ids": piece.token_ids, "prompt_token_ids": None}
            if choice.tell_prompt:
                made["prompt_token_ids"], choice.tell_prompt = self.requests[which][0].tolist(), False
        return [made] if made["text"] or self._request.logprobs or self._request.return_token_ids else []

    def _finish(self, which: int, generation: Generation) -> list[Json]:
        choice = self._choices[which]
        choice.finish_reason = generation.finish_reason
        return [self._made(which, choice.text.finish()) | {"finish_reason": choice.finish_reason}]

    def _choice(self, which: int) -> Json:
        choice = self._choices[which]
        made: Json = {
            "index": which,
            "text": "".join(choice.read),
            "logprobs": choice.logprobs if self._request.logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        if self._request.return_token_ids:
            made |= {"token_ids": choice.token_ids, "prompt_token_ids": self.requests[which][0].tolist()}
        return made

    def _made(self, which: int, text: str) -> Json:
        """A choice of a chunk with a text, which joins that of the whole."""
        self._choices[which].read.append(text)
        return {"index": which, "text": text, "logprobs": None, "finish_reason": None}

    def _logprobs(self, choice: _Choice, piece: Piece) -> Json:
        texts, offsets = [self._vocabulary.token(token)[0] for token in piece.token_ids], list[int]()
        for text in texts:
            offsets.append(choice.offset)
            choice.offset += len(text)
        top = [self._likeliest(at, piece) for at in range(len(texts))] if piece.likeliest else None
        return {"tokens": texts, "token_logprobs": piece.logprobs, "top_logprobs": top, "text_offset": offsets}

    def _likeliest(self, at: int, piece: Piece) -> dict[str, float]:
        """Log-probs by text: the likeliest tokens, and the sampled one where it is not among them."""
        told = [(piece.token_ids[at], piece.logprobs[at]), *reversed(piece.likeliest[at])]
        # Of tokens with one text the likeliest counts, so it comes last.
        return {self._vocabulary.token(token)[0]: max(logprob, LOWEST) for token, logprob in told}
