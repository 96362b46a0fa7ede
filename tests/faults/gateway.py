"""The gateway of the fault tests, a process of its own: `python -m tests.faults.gateway PORT STORE_URL SPOOL_DIR`.

Its model answers at once, with what it was asked, and with token ids.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np

from agentlightning.llm_proxy import LLMProxy
from agentlightning.llm_proxy.backend import Dialect
from agentlightning.store import LightningStoreClient
from agentlightning.types import ChatReply, TokenCall

MODEL = "echo"


class Echo:
    speaks: frozenset[Dialect] = frozenset({"chat"})

    async def call(self, dialect: Dialect, body: dict[str, Any]) -> ChatReply:
        text = body["messages"][-1]["content"]
        message = {"role": "assistant", "content": text}
        response = {
            "id": f"chatcmpl-{text}",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        }
        ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        call = TokenCall(MODEL, ids, ids, np.zeros(len(ids), np.float32), "stop")
        return ChatReply(response, [call])

    async def stream(self, dialect: Dialect, body: dict[str, Any]) -> AsyncGenerator[Any, None]:
        yield await self.call(dialect, body)


async def main(port: str, store: str, spool_dir: str) -> None:
    proxy = LLMProxy(int(port), store=LightningStoreClient(store), spool_dir=spool_dir or None)
    proxy.set_backend(MODEL, Echo())
    await proxy.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
