"""Tokens as the engine saw them, and the views that training takes of them.

The way of the data (see docs): a `TokenCall` rides on the span of an LLM call; `adapter/` joins the calls of a
rollout on exact token prefixes; a `Trajectory` is one root-to-leaf path of that graph, a `Triplet` the view of one
call. Arrays are numpy, never lists of Python integers: a token id in a list costs ten times the memory.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


_HEADER: dict[str, type[Any]] = {
    "model": str,
    "finish_reason": str,
    "weights_version": int,
    "prompt": int,
    "response": int,
    "logprobs": bool,
}
"""Of the bytes of a `TokenCall`; besides, its `temperature`, a number."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenCall:
    """One LLM call as exact tokens.

    `logprobs` are natural logs under the policy at the *sampling* temperature, before top-p and top-k, so that
    they equal what the learner computes from `logits / temperature`.
    """

    model: str
    prompt_ids: Int32
    """(P,) every token that the engine was given."""
    response_ids: Int32
    """(R,) every token that it sampled, the end token included."""
    logprobs: Float32 | None
    """(R,) or `None` where the backend can't return them."""
    finish_reason: str
    weights_version: int = 0
    """Version of the weights that sampled the response; 0 where the backend has no versions."""
    temperature: float = 1.0

    def to_bytes(self) -> bytes:
        """A compact self-describing form: header length, JSON header, then the raw little-endian arrays."""
        header = orjson.dumps(
            {
                "model": self.model,
                "finish_reason": self.finish_reason,
                "weights_version": self.weights_version,
                "temperature": self.temperature,
                "prompt": len(self.prompt_ids),
                "response": len(self.response_ids),
                "logprobs": self.logprobs is not None,
            }
        )
        parts = [struct.pack("<I", len(header)), header, _raw(self.prompt_ids, "<i4"), _raw(self.response_ids, "<i4")]
        if self.logprobs is not None:
            parts.append(_raw(self.logprobs, "<f4"))
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> TokenCall:
        """Inverse of `to_bytes`.

        Raises:
            ValueError: `data` is not what `to_bytes` makes.
        """
        try:
            (size,) = struct.unpack_from("<I", data)
            header: dict[str, Any] = orjson.loads(data[4 : 4 + size])
            _check_header(header)
            at = 4 + size
            prompt = np.frombuffer(data, "<i4", header["prompt"], at).astype(np.int32)
            at += 4 * header["prompt"]
            response = np.frombuffer(data, "<i4", header["response"], at).astype(np.int32)
            at += 4 * header["response"]
            logprobs = (
                np.frombuffer(data, "<f4", header["response"], at).astype(np.float32) if header["logprobs"] else None
            )
        except (struct.error, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the bytes of a token call: {error}") from error
        return cls(
            model=header["model"],
            prompt_ids=prompt,
            response_ids=response,
            logprobs=logprobs,
            finish_reason=header["finish_reason"],
            weights_version=header["weights_version"],
            temperature=header["temperature"],
        )


def _check_header(header: Mapping[str, Any]) -> None:
    for name, kind in _HEADER.items():
        if type(header[name]) is not kind:
            raise ValueError(f"`{name}` is {header[name]!r:.100}")
    if type(header["temperature"]) not in (int, float):
        raise ValueError(f"`temperature` is {header['temperature']!r:.100}")
    if header["prompt"] < 0 or header["response"] < 0:  # numpy would read all there is
        raise ValueError("`prompt` and `response` must be 0 or above")


def _raw(array: NDArray[Any], dtype: str) -> bytes:
    return np.ascontiguousarray(array, dtype=dtype).tobytes()


class _TokenCallSchema:
    """Lets pydantic models hold a `TokenCall`: as itself in Python, as base64 of its bytes in JSON."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> TokenCall:
            if isinstance(value, TokenCall):
                return value
            if isinstance(value, str):
                return TokenCall.from_bytes(base64.b64decode(value))
            raise ValueError("`token_call` must be a TokenCall or the base64 of its bytes")

        def write(value: TokenCall) -> str:
            return base64.b64encode(value.to_bytes()).decode()

        return core_schema.no_info_plain_validator_function(
            read,
            serialization=core_schema.plain_serializer_function_ser_schema(write, when_used="json"),
            json_schema_input_schema=core_schema.str_schema(),
        )


TokenCallField = Annotated[TokenCall, _TokenCallSchema]


class Triplet(BaseModel):
    """One LLM call as (prompt, response, reward): the view that the public interface of Agent-Lightning names.

    `prompt` and `response` are dictionaries with `token_ids` and, on the response, `logprobs`.
    """

    prompt: Any
    response: Any
    reward: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict[str, Any])

    @property
    def input(self) -> Any:
        """Another name of `prompt`."""
        return self.prompt


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One LLM call within a rollout, with the reward that was emitted after it and before the next one."""

    call: TokenCall
    reward: float | None
    """`None` where nothing was emitted, which is not the same as a reward of zero."""
    agent: str | None = None
    """Name of the agent that called, where its spans tell."""


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """One root-to-leaf path of a rollout's token graph.

    It holds the path's tokens once, and which calls' answers are trained in it; the per-token arrays, all (T,), are
    made when they are asked for.
    """

    token_ids: Int32
    calls: Mapping[int, TokenCall]
    """By turn (index in the episode's `turns`): the calls whose answers are trained in *this* trajectory. One that
    several leaves share stands in the first of them only, so that branches do not count it twice. An answer begins
    where its call's prompt ends."""

    @property
    def sampled(self) -> Bool:
        """True where the policy sampled the token and it is trained in this trajectory."""
        return self._fill(np.zeros(len(self.token_ids), np.bool_), lambda turn, call: True)

    @property
    def logprobs(self) -> Float32:
        """Behaviour log-probs; 0 where not sampled, NaN where the backend gave none."""
        return self._fill(
            np.zeros(len(self.token_ids), np.float32),
            lambda turn, call: np.nan if call.logprobs is None else call.logprobs,
        )

    @property
    def versions(self) -> Int32:
        """Weights version that sampled the token; -1 where not sampled."""
        return self._fill(np.full(len(self.token_ids), -1, np.int32), lambda turn, call: call.weights_version)

    @property
    def turns(self) -> Int32:
        """Index of the turn that sampled the token; -1 where not sampled."""
        return self._fill(np.full(len(self.token_ids), -1, np.int32), lambda turn, call: turn)

    def _fill(self, array: NDArray[Any], value: Callable[[int, TokenCall], Any]) -> NDArray[Any]:
        for turn, call in self.calls.items():
            start = len(call.prompt_ids)
            array[start : start + len(call.response_ids)] = value(turn, call)
        return array


BreakKind = Literal["template", "retokenised", "tool_call", "truncated", "edited"]
"""Why a prompt does not continue an earlier call: the chat template wrote it in another way, the same text became other
tokens, a tool call was rendered in another form, history was left out, or the text itself was changed."""


@dataclass(frozen=True, slots=True, eq=False)
class PrefixBreak:
    """A turn whose prompt should have continued an earlier call token for token and does not. `str` is one line."""

    turn: int
    earlier: int
    """The turn that it departs from."""
    position: int
    """Index of the first token that differs."""
    in_answer: bool
    """Whether that token lies in the earlier call's answer; else in its prompt."""
    removed: Int32
    """The earlier call's tokens from `position` on, up to where both run alike again, or the first ones."""
    added: Int32
    """What stands in their place."""
    rejoins: bool
    """Whether both run alike again after that."""
    kind: BreakKind
    reason: str

    def __str__(self) -> str:
        where = f"token {self.position} (in its {'answer' if self.in_answer else 'prompt'})"
        return (
            f"turn {self.turn}: the prompt departs from turn {self.earlier} at {where}: "
            f"{_listed(self.removed)} became {_listed(self.added)}; {self.reason}"
        )


def _listed(tokens: Int32, shown: int = 8) -> str:
    text = ", ".join(map(str, tokens[:shown].tolist()))
    return f"[{text}, ...]" if len(tokens) > shown else f"[{text}]"


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """A finished rollout as training sees it: its turns, its trajectories and its reward."""

    rollout_id: str
    turns: list[Turn]
    trajectories: list[Trajectory]
    reward: float | None
    """The final reward; `None` where the agent gave none."""
    prefix_breaks: list[PrefixBreak] = field(default_factory=list[PrefixBreak])
    """The turns whose prompt does not continue an earlier one though it should."""
    missing_token_ids: int = 0
    """Answered LLM calls that are no turns because their backend gave no token ids: above 0, the episode has holes."""
    backend_failures: int = 0
    """Calls that the gateway or its backend failed, with a status of 429 or from 500 up: no fault of the policy's."""
    retokenized: int = 0
    """Turns whose tokens were made again from their text, because their backend gave no token ids: not exact."""
    rewards: dict[str, float] = field(default_factory=dict[str, float])
    """By name: the last value of each dimension that a reward had."""
    labels: dict[str, str] = field(default_factory=dict[str, str])
    """By name: the last text that a reward came with, such as `pred`, the answer that was scored."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What a backend of the gateway answers: the OpenAI response body, and its choices as tokens.

    `calls` is empty where the backend can't return token ids.
    """

    response: dict[str, Any]
    calls: list[TokenCall]
