"""What the drivers share. A driver measures one thing with whichever `agentlightning` its interpreter has.

Only names that Agent-Lightning 0.3 and this project share are used, so that the same lines run in either environment.
`compare.py` starts the drivers; each prints one JSON line with its figures, and may be run by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

import agentlightning as agl


def arguments(**defaults: Any) -> argparse.Namespace:
    """Command-line flags `--name value`, typed by their defaults."""
    parser = argparse.ArgumentParser()
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def report(**figures: float) -> None:
    """Print the figures and end the process at once, whatever threads are left."""
    print(json.dumps(figures), flush=True)
    sys.stderr.flush()
    os._exit(0)


def open_store(home: str, **settings: Any) -> Any:
    """A store: `memory` in both, `sqlite` (a file in the working directory) in ours."""
    if home == "sqlite":
        return agl.SqlLightningStore(Path("store.sqlite"), **settings)
    if home != "memory":
        raise SystemExit(f"`--home` is {home!r}; give memory or sqlite")
    known = inspect.signature(agl.InMemoryLightningStore.__init__).parameters
    if "thread_safe" in known:
        settings["thread_safe"] = True
    return agl.InMemoryLightningStore(**settings)


def trainer(algorithm: Any, *, home: str, processes: int, concurrency: int = 1, tracer: str = "otel") -> Any:
    """A trainer with one runner in this process (`processes` 0), or so many runner processes beside the algorithm's.

    `tracer` is `otel`, the one that both have, `default`, each release's own, or `plain`: nothing is chosen but the
    algorithm, so that strategy, store and tracer are the release's own.
    """
    if tracer == "plain":
        return agl.Trainer(algorithm=algorithm, n_runners=1, port=free_port())
    if processes:
        strategy: Any = agl.ClientServerExecutionStrategy(n_runners=processes, server_port=free_port())
    else:
        known = inspect.signature(agl.SharedMemoryExecutionStrategy.__init__).parameters
        # Theirs never ends with the runner in the main thread; ours has the algorithm there.
        strategy = agl.SharedMemoryExecutionStrategy(
            n_runners=1, **({"main_thread": "algorithm"} if "main_thread" in known else {})
        )
    more = {"max_concurrency": concurrency} if concurrency > 1 else {}
    return agl.Trainer(
        algorithm=algorithm,
        n_runners=max(processes, 1),
        strategy=strategy,
        tracer=agl.OtelTracer() if tracer == "otel" else None,
        store=open_store(home),
        **more,
    )


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


async def all_ended(store: Any, rollout_ids: list[str], every: float = 0.5) -> list[Any]:
    """The rollouts, once all have ended.

    Asks seldom, and for the last one first (the queue is first in, first out), so that asking costs next to nothing.
    """
    for wanted in (rollout_ids[-1:], rollout_ids):
        while True:
            done = await store.wait_for_rollouts(rollout_ids=wanted, timeout=0.0)
            if len(done) == len(wanted):
                break
            await asyncio.sleep(every)
    bad = [rollout.rollout_id for rollout in done if rollout.status != "succeeded"]
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(done)} rollouts did not succeed, {bad[0]} for one")
    return done


PROMPT = {"prompt": agl.PromptTemplate(template="{task}", engine="f-string")}
"""Resources for agents that need none: theirs run no rollout without."""
