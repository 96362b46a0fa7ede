"""What answers of both interfaces have in common: they grow token by token, as chunks and as a whole.

`service.py` feeds an `Answer` what the engine gives, one piece or many; `chat_answer.py` and `completion_answer.py`
say what chunks and choices look like. Chunks and the whole come from the same state, so that what was streamed adds
up to what is recorded.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from agentlightning.types.tokens import Int32

from .fields import Json
from .sampling import Generation, SamplingParams
from .streams import Piece

LOWEST = -9999.0
"""Log-prob that stands for probability 0, which JSON has no number for; vLLM's."""


class Answer(ABC):
    """The answer to one request.

    Args:
        model: Name of the model that answers.
        requests: Prompt and sampling parameters of each choice.
        prompt_tokens: How many the request is charged for.
        include_usage: Whether the stream ends with the usage.
    """

    ID: ClassVar[str]
    """What the id begins with."""
    WHOLE: ClassVar[str]
    """`object` of the whole answer."""
    CHUNK: ClassVar[str]
    """`object` of a chunk."""

    def __init__(
        self,
        model: str,
        requests: Sequence[tuple[Int32, SamplingParams]],
        *,
        prompt_tokens: int,
        include_usage: bool,
    ):
        self.requests = requests
        self._id, self._created, self._model = f"{self.ID}-{uuid.uuid4().hex}", int(time.time()), model
        self._prompt_tokens, self._sampled = prompt_tokens, 0
        self._include_usage = include_usage
        self._versions: dict[int, int] = {}

    def feed(self, which: int, piece: Piece) -> list[Json]:
        """Take in the next tokens of a choice; the chunks to send."""
        self._sampled += len(piece.token_ids)
        self._versions[which] = piece.weights_version
        return [self._chunk(choice, which) for choice in self._feed(which, piece)]

    def finish(self, which: int, generation: Generation) -> list[Json]:
        """Take in that a choice is complete; the chunks to send, the last with the finish reason."""
        return [self._chunk(choice, which) for choice in self._finish(which, generation)]

    def end(self) -> list[Json]:
        """The chunks to send when all choices are complete."""
        if not self._include_usage:
            return []
        return [self._head(self.CHUNK, self._versions[0]) | {"choices": [], "usage": self._usage()}]

    def response(self) -> Json:
        """The whole answer."""
        choices = [self._choice(which) for which in range(len(self.requests))]
        return self._head(self.WHOLE, self._versions[0]) | {"choices": choices, "usage": self._usage()}

    @abstractmethod
    def _feed(self, which: int, piece: Piece) -> list[Json]:
        """The choices of the chunks that a piece makes."""

    @abstractmethod
    def _finish(self, which: int, generation: Generation) -> list[Json]:
        """The choices of the chunks that the end of a choice makes."""

    @abstractmethod
    def _choice(self, which: int) -> Json:
        """A choice of the whole answer."""

    def _head(self, kind: str, version: int) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": f"weights-{version}",
        }

    def _chunk(self, choice: Json, which: int) -> Json:
        chunk = self._head(self.CHUNK, self._versions[which]) | {"choices": [choice]}
        return chunk | {"usage": None} if self._include_usage else chunk

    def _usage(self) -> Json:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._sampled,
            "total_tokens": self._prompt_tokens + self._sampled,
        }
