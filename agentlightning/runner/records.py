"""`Records`: asks the gateways that an agent could call whether all its calls are in the store. Called by `attempt`.

Asked after the agent has ended and before its attempt gets a final status, so that a succeeded attempt has the spans of
all its calls, also where a gateway had to keep them while the store was away. Costs nothing where no resource is a
`ProxyLLM`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, cast

from agentlightning.types import AttemptedRollout, LeaseLostError, ProxyLLM, Resource

if TYPE_CHECKING:
    import aiohttp

RECORDS_WAIT_S = 60.0
"""How long a gateway that can't answer is asked again, in seconds."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Between two questions; each pause is twice the one before."""
MEND = (
    "see the gateway's log; if it was restarted, give it the `spool_dir` that it had, so that it finds what it kept, "
    "and let the rollout be tried again (`max_attempts`, `retry_condition=['failed']`)"
)


class MissingRecords(RuntimeError):
    """A gateway did not confirm that the store has all calls of the attempt, so it can't count as succeeded."""


class Records:
    """Confirmations for one runner. One HTTP session, open while the context is entered, however often.

    Args:
        wait: See `RECORDS_WAIT_S`.
    """

    def __init__(self, wait: float = RECORDS_WAIT_S) -> None:
        self.wait = wait
        self._http: aiohttp.ClientSession | None = None
        self._users = 0

    async def __aenter__(self) -> Self:
        self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if self._users == 0 and self._http is not None:
            await self._http.close()
            self._http = None

    async def confirm(self, gateways: Mapping[str, str | None]) -> None:
        """Return when all gateways have all calls of an attempt in the store. They take no more of them.

        Args:
            gateways: What `gateways_of` gave.

        Raises:
            MissingRecords: one of them does not say so, for as long as it is waited for, or says that it can't.
            LeaseLostError: the attempt no longer counts.
        """
        deadline = asyncio.get_running_loop().time() + self.wait
        for url, key in gateways.items():
            await self._confirm(url, key, deadline)

    async def _confirm(self, url: str, key: str | None, deadline: float) -> None:
        failure, pause = "", FIRST_PAUSE_S
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    status, body, failure = await self._ask(url, key)
                    if status and status < 500 and status != 429:
                        return _judge(url, status, body)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)
        except TimeoutError:
            said = f", the last answer was {failure}" if failure else ""
            raise MissingRecords(
                f"the gateway did not confirm within {self.wait:g} s, at {url}, that the store has all calls{said}; "
                + MEND
            ) from None

    async def _ask(self, url: str, key: str | None) -> tuple[int, bytes, str]:
        """Status and body of an answer, and how both look; a status of 0 is no answer."""
        import aiohttp  # not before it is needed: it takes 100 ms

        if self._http is None:
            self._http = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0), connector=aiohttp.TCPConnector(limit=0)
            )
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        try:
            async with self._http.post(url, headers=headers, allow_redirects=False) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            return 0, b"", f"{type(error).__name__}: {error}"
        return answer.status, body, f"{answer.status}: {_message(body)}"


def gateways_of(resources: Mapping[str, Resource], rollout: AttemptedRollout) -> dict[str, str | None]:
    """Where to ask for the calls of an attempt, each with its token: one URL for each distinct gateway."""
    found: dict[str, str | None] = {}
    for resource in resources.values():
        if isinstance(resource, ProxyLLM) and resource.confirms_calls:
            base = resource.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
            found[base.removesuffix("/v1") + "/complete"] = resource.api_key
    return found


def _judge(url: str, status: int, body: bytes) -> None:
    """Raise what an answer that is final means, unless it is a confirmation."""
    if status == 200 and isinstance(_object(body).get("calls"), int):
        return
    if status == 409:
        raise LeaseLostError(_message(body))
    if status in (401, 403):
        raise MissingRecords(f"the gateway at {url} does not take the `api_key` of its `ProxyLLM`: {_message(body)}")
    if "error" in _object(body) and status >= 400:
        raise MissingRecords(f"the gateway can't confirm, at {url}, that the store has all calls: {_message(body)}")
    raise MissingRecords(
        f"{url} answered {status}, but not as a gateway does: {_message(body)}; a `ProxyLLM` must come from "
        "`LLMProxy.as_resource()`; use `LLM` for an endpoint of your own"
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        found: Any = json.loads(body)
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _message(body: bytes) -> str:
    """The message of an error in OpenAI's form, else what was said."""
    error = _object(body).get("error")
    if isinstance(error, dict) and "message" in error:
        return str(cast("dict[str, Any]", error)["message"])
    return body[:200].decode(errors="replace")
