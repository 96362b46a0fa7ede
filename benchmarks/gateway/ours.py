"""Our gateway with its store, as a process: every call is recorded, with ids and log-probs, in the home that is named.

Started by `compare`. Prints as one line of JSON the paths that agents would be given, one an attempt.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from shapes import SHAPES

import agentlightning as agl


async def serve(port: int, backend: str, home: str, attempts: int) -> None:
    store = agl.SqlLightningStore(Path("store.sqlite")) if home == "sqlite" else agl.InMemoryLightningStore()
    models = [
        {"model_name": name, "litellm_params": {"model": f"hosted_vllm/{name}", "api_base": backend}} for name in SHAPES
    ]
    proxy = agl.LLMProxy(port, models, store)
    await proxy.start()
    rollouts = [await store.start_rollout(input=number) for number in range(attempts)]
    print(
        json.dumps([f"/rollout/{one.rollout_id}/attempt/{one.attempt.attempt_id}/v1" for one in rollouts]), flush=True
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--home", choices=["memory", "sqlite"], default="memory")
    parser.add_argument("--attempts", type=int, default=256)
    args = parser.parse_args()
    asyncio.run(serve(args.port, args.backend, args.home, args.attempts))
