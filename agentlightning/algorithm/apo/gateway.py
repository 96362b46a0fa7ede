"""`through_gateway`: the agents' LLM behind the trainer's gateway, so that calls are on record. Called by `APO.run`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentlightning.types import LLM, NamedResources

if TYPE_CHECKING:
    from agentlightning.llm_proxy import LLMProxy

NAME = "main_llm"
"""What the resource is called, as in training."""


@asynccontextmanager
async def through_gateway(proxy: LLMProxy | None, resources: NamedResources) -> AsyncGenerator[NamedResources, None]:
    """The resources for agents, for as long as the gateway runs.

    Args:
        proxy: `Trainer(llm_proxy=...)`; `None`: agents reach their LLM as they like. Started here if it doesn't run.
        resources: As they were given; an LLM among them stays, else the gateway's first model comes to them.
    """
    if proxy is None:
        yield resources
        return
    started = not proxy.is_running()
    await proxy.start()
    try:
        has_one = any(isinstance(each, LLM) for each in resources.values())
        yield resources if has_one else {**resources, NAME: proxy.as_resource()}
    finally:
        if started:
            await proxy.stop()
