"""The built-in agent: asks a row's prompt once and scores the answer. For tasks that need no program of their own.

Run by `main_ppo`, and by `agl eval single-turn`. Its tasks are rows of `verl.prompts`; its rewards come from
`verl.reward`. The call goes through the gateway like any agent's, over one HTTP connection pool per event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import orjson

from agentlightning.emitter import emit_reward
from agentlightning.litagent import LitAgent
from agentlightning.semconv import reward_label_key
from agentlightning.types import LLM, AttemptedRollout, NamedResources, ProxyLLM

from .reward import Scorer
from .reward.functions import REWARD


class RequestFailed(RuntimeError):
    """The LLM's endpoint did not answer the call."""


class SingleTurnAgent(LitAgent[Mapping[str, Any]]):
    """Asks once.

    Args:
        scorer: Turns an answer into rewards; default: the rules by data source.

    An answer that can't be scored (the reward function raises) fails its attempt with that exception.
    """

    def __init__(self, scorer: Scorer | None = None) -> None:
        super().__init__()
        self.scorer = scorer or Scorer()

    async def rollout_async(
        self, task: Mapping[str, Any], resources: NamedResources, rollout: AttemptedRollout
    ) -> None:
        """Ask `task["prompt"]` and emit the reward, with every dimension that the scorer gives.

        Raises:
            RequestFailed: there is no answer.
            ValueError: there is no LLM among the resources.
        """
        answer = await _ask(_llm(resources, rollout), task["prompt"])
        score = await self.scorer(task, answer)
        labels = {reward_label_key(name): text for name, text in score.labels.items()}
        emit_reward(score.rewards, primary_key=REWARD, attributes=labels)


agent = SingleTurnAgent()
"""With the built-in rules, for `agl dev` and `agl eval`."""


def _llm(resources: NamedResources, rollout: AttemptedRollout) -> LLM:
    found = next((value for value in resources.values() if isinstance(value, LLM)), None)
    if found is None:
        raise ValueError("there is no LLM among the resources; the trainer or the command line gives one")
    return found.with_attempted_rollout(rollout) if isinstance(found, ProxyLLM) else found


async def _ask(llm: LLM, messages: Any) -> str:
    """The text of the answer; empty where there is none."""
    session = await _session()
    body = orjson.dumps({**llm.sampling_parameters, "model": llm.model, "messages": messages})
    headers = {"content-type": "application/json", "authorization": f"Bearer {llm.api_key or 'none'}"}
    async with session.post(f"{llm.endpoint.rstrip('/')}/chat/completions", data=body, headers=headers) as reply:
        content = await reply.read()
        if reply.status != 200:
            raise RequestFailed(f"the LLM's endpoint answered {reply.status}: {content[:500].decode(errors='replace')}")
    return orjson.loads(content)["choices"][0]["message"].get("content") or ""


# -- one connection pool per event loop, which ends with it -----------------------------------------------------------

_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[asyncio.Future[aiohttp.ClientSession], asyncio.Task[None]]]
_pools = WeakKeyDictionary()


async def _session() -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    if loop not in _pools:
        ready: asyncio.Future[aiohttp.ClientSession] = loop.create_future()
        _pools[loop] = ready, loop.create_task(_keep_open(ready), name="agl-single-turn")
    return await asyncio.shield(_pools[loop][0])


async def _keep_open(ready: asyncio.Future[aiohttp.ClientSession]) -> None:
    """Hold the session until the loop cancels its tasks; the rollout's timeout is the only one."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30.0)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        ready.set_result(session)
        await asyncio.Event().wait()
