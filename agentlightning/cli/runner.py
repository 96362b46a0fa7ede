"""`agl runner`: runner processes for a store that is served elsewhere. Drives `execution.supervisor`."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from agentlightning.types import ConfigError

from .target import load_agent

if TYPE_CHECKING:
    from agentlightning.execution.supervisor import Supervisor
    from agentlightning.store.base import LightningStore

WAIT_SILENTLY_S = 2.0
"""How long the store may take to answer before the command says that it waits."""


def runner(
    agent: Annotated[
        str, typer.Argument(metavar="MODULE:AGENT", help="The agent, as `my_agent:agent` or `path/to/file.py:agent`.")
    ],
    *,
    store: Annotated[str, typer.Option(metavar="URL", help="The store, as `http://host:4747`; see `agl store`.")],
    processes: Annotated[int, typer.Option(metavar="N", min=1, help="Runner processes on this machine.")] = 1,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="Rollouts at once in each process.")] = 8,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", envvar="AGL_STORE_TOKEN", help="What the store asks for if it is not local."),
    ] = None,
    max_rollouts: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Each process ends after so many rollouts. Default: no limit."),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="How long rollouts under way may take when the command is stopped."
        ),
    ] = 30.0,
) -> None:
    """Execute an agent's rollouts from a store, until the store closes.

    Start as many of these as you like, on as many machines, before or while a training runs; stop any of them at any
    time. The store hands each rollout to one of them:

    ```
    agl store --port 4747                                            # the store
    agl runner my_agent:agent --store http://127.0.0.1:4747          # here, or on other machines
    AGL_CURRENT_ROLE=algorithm python train.py                       # or: a training that serves its own store
    ```

    Async agents share a process (`--concurrency`); agents that burn CPU want processes (`--processes`). A process that
    crashes, or whose agent hangs beyond its timeout, is replaced, and its rollouts are tried again if their
    configuration says so (`RolloutConfig(max_attempts=3, retry_condition=["unresponsive"])`).

    Ctrl-C or SIGTERM: takes no more rollouts, finishes those under way and ends. A second one stops them at once.
    """
    from agentlightning.execution.job import pickled
    from agentlightning.execution.supervisor import Supervisor
    from agentlightning.store.client_server import LightningStoreClient
    from agentlightning.trainer.bundle import AgentRunnerBundle

    if not store.startswith(("http://", "https://")):
        raise ConfigError(f"`--store` is a URL as `http://127.0.0.1:4747`, got `{store}`")
    bundle = AgentRunnerBundle(load_agent(agent), max_rollouts=max_rollouts, max_concurrency=concurrency)
    supervisor = Supervisor(pickled("the agent", bundle, bundle.parts), processes, graceful_timeout=grace)
    client = LightningStoreClient(store, token=token)
    each = f"{concurrency} rollout{'s' if concurrency > 1 else ''} at once"
    typer.echo(f"{processes} runner process{'es' if processes > 1 else ''}, {each}; Ctrl-C finishes and ends", err=True)
    asyncio.run(_work(supervisor, client, store))
    typer.echo("the runners have ended", err=True)


async def _work(supervisor: Supervisor, store: LightningStore, address: str) -> None:
    from agentlightning.execution.events import ThreadingEvent
    from agentlightning.execution.job import pickled

    stop, loop = ThreadingEvent(), asyncio.get_running_loop()

    def stopped() -> None:
        if stop.is_set():
            supervisor.cut_off()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        if os.name == "posix":
            loop.add_signal_handler(number, stopped)
        else:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopped))
    ready = asyncio.create_task(store.statistics())  # a wrong address or token shows here, and once
    stopping = asyncio.create_task(stop.wait_async())
    done, _ = await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_SILENTLY_S)
    if not done:
        typer.echo(f"waiting for the store at {address}; is it running (`agl store`)?", err=True)
        await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not ready.done():
        ready.cancel()
        return
    ready.result()
    await supervisor.run(store, asyncio.sleep(0, pickled("the store", store)), stop)
    await store.close()
