"""`HttpBackend`: passes calls to any OpenAI-compatible URL and reads tokens from the answer, as vLLM gives them.

Called by `gateway`. Uses aiohttp, which costs a fraction of httpx's CPU time a request.
"""

from __future__ import annotations

from array import array
from typing import Any, cast

import aiohttp
import numpy as np
import orjson

from agentlightning.types import ChatReply, RequestError, TokenCall
from agentlightning.types.tokens import Float32, Int32

MAX_CONNECTIONS = 1000
CONNECT_SECONDS = 10.0
_ASK = {"return_token_ids": True, "logprobs": True}


class UpstreamError(RequestError):
    """An endpoint's own refusal, passed on with its status and its body."""

    def __init__(self, message: str, status: int, body: dict[str, object] | None) -> None:
        super().__init__(message, status=status)
        self._body = body

    def to_body(self) -> dict[str, object]:
        """The endpoint's answer where it was a JSON object, else OpenAI's error object around its text."""
        return self._body if self._body is not None else super().to_body()


class HttpBackend:
    """An OpenAI-compatible endpoint.

    Args:
        base_url: As the `openai` client wants it, usually ending in `/v1`.
        api_key: Sent as a bearer token. The agent's own key never goes upstream.
        model: Name of the model at the endpoint; `None`: the name that the agent used.
        tempered_logprobs: Whether the endpoint's log-probs are those at the sampling temperature (vLLM with
            `--logprobs-mode processed_logprobs`, our own server). Otherwise they are taken to be those at
            temperature 1, vLLM's default, and recorded only for calls at that temperature.
        timeout: Longest time of a call, in seconds.

    A request without a `temperature` is sent with 1, OpenAI's default: vLLM would else take one from the model's
    generation config, and nobody could say what the log-probs are worth. An endpoint that refuses the fields which
    ask for tokens is asked again without them, from then on always.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        model: str | None = None,
        tempered_logprobs: bool = False,
        timeout: float = 600.0,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._model = model
        self._tempered = tempered_logprobs
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        self._session: aiohttp.ClientSession | None = None
        self._ask = dict(_ASK)

    async def chat(self, body: dict[str, Any]) -> ChatReply:
        """Answer one request.

        Raises:
            UpstreamError: the endpoint's answer is not 200.
            RequestError: 502 if the endpoint can't be reached or answers nonsense, 504 if it is too slow.
        """
        sent: dict[str, Any] = {"temperature": 1.0, **body, **self._ask}
        if self._model is not None:
            sent["model"] = self._model
        status, data = await self._post(sent)
        if status in (400, 422) and self._stop_asking(body, data):
            return await self.chat(body)
        if status != 200:
            raise _upstream_error(self.base_url, status, data)
        response = _read(self.base_url, data)
        calls = self._calls(body["model"], sent, response)
        _strip(response, body)
        return ChatReply(response, calls)

    async def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, sent: dict[str, Any]) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers, timeout=self._timeout, connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS)
            )
        url = f"{self.base_url}/chat/completions"
        try:
            async with self._session.post(url, data=orjson.dumps(sent), allow_redirects=False) as answer:
                return answer.status, await answer.read()
        except TimeoutError as error:
            raise RequestError(f"the backend at {self.base_url} did not answer in time", status=504) from error
        except (aiohttp.ClientError, OSError) as error:
            raise RequestError(f"the backend at {self.base_url} can't be reached: {error}", status=502) from error

    def _stop_asking(self, body: dict[str, Any], refusal: bytes) -> bool:
        refused = [field for field in self._ask if field not in body and field.encode() in refusal]
        for field in refused:
            del self._ask[field]
        return bool(refused)

    def _calls(self, model: str, sent: dict[str, Any], response: dict[str, Any]) -> list[TokenCall]:
        choices = response["choices"]
        prompt = response.get("prompt_token_ids")
        if prompt is None or any(choice.get("token_ids") is None for choice in choices):
            return []
        temperature = sent["temperature"] if isinstance(sent["temperature"], (int, float)) else 1.0
        exact = self._tempered or temperature == 1.0
        try:
            prompt_ids = _ids(prompt)
            return [
                TokenCall(
                    model=model,
                    prompt_ids=prompt_ids,
                    response_ids=_ids(choice["token_ids"]),
                    logprobs=_logprobs(choice) if exact else None,
                    finish_reason=str(choice.get("finish_reason")),
                    temperature=float(temperature),
                )
                for choice in choices
            ]
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise RequestError(f"the backend at {self.base_url} sent malformed tokens: {error}", status=502) from error


def _read(base_url: str, data: bytes) -> dict[str, Any]:
    try:
        response: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the backend at {base_url} sent invalid JSON: {error}", status=502) from error
    choices: Any = cast("dict[str, Any]", response).get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in cast("list[Any]", choices)):
        raise RequestError(f"the backend at {base_url} sent no list of `choices`: {data[:200]!r}", status=502)
    return cast("dict[str, Any]", response)


def _ids(values: Any) -> Int32:
    # `array` refuses floats and numbers that don't fit, which numpy would cut down in silence.
    return np.frombuffer(array("i", values), np.int32)


def _logprobs(choice: dict[str, Any]) -> Float32 | None:
    content = (choice.get("logprobs") or {}).get("content")
    if content is None:
        return None
    if len(content) != len(choice["token_ids"]):
        raise ValueError(f"{len(choice['token_ids'])} token ids but {len(content)} log-probs")
    return np.array([token["logprob"] for token in content], np.float32)


def _strip(response: dict[str, Any], body: dict[str, Any]) -> None:
    """Take out what the agent did not ask for."""
    if not body.get("return_token_ids"):
        response.pop("prompt_token_ids", None)
        for choice in response["choices"]:
            choice.pop("token_ids", None)
    if not body.get("logprobs"):
        for choice in response["choices"]:
            choice["logprobs"] = None


def _upstream_error(base_url: str, status: int, data: bytes) -> UpstreamError:
    try:
        body: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        body = None
    text = data.decode(errors="replace")[:500]
    if status < 400:  # a redirect, or an empty success: nothing that an agent could make use of
        return UpstreamError(f"the backend at {base_url} answered {status}: {text}", 502, None)
    found = cast("dict[str, object]", body) if isinstance(body, dict) else None
    return UpstreamError(f"the backend at {base_url} answered {status}: {text}", status, found)
