"""The model that `dev` and `eval` give an agent: an endpoint elsewhere or the native engine, behind a gateway."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentlightning.litagent import LitAgent
from agentlightning.litagent.decorator import FunctionalLitAgent
from agentlightning.types import ConfigError, NamedResources

from .native import native_service

if TYPE_CHECKING:
    from agentlightning.llm_proxy import LLMProxy
    from agentlightning.store.base import LightningStore

RESOURCE = "main_llm"


@contextmanager
def model_resources(
    store: LightningStore,
    endpoint: str | None,
    model: str | None,
    model_path: str | None,
    *,
    sampling: Mapping[str, Any] | None = None,
) -> Generator[NamedResources | None]:
    """The model as a resource, behind a gateway, so that calls are recorded here as they are in training.

    Args:
        store: Records the calls.
        endpoint: An OpenAI-compatible endpoint; its key comes from OPENAI_API_KEY.
        model: What to ask for there.
        model_path: Instead: a model directory or hub name, on the native engine.
        sampling: Put over the agent's own parameters in rollouts of mode `val`.

    Raises:
        ConfigError: the options exclude each other, or one of them is missing.
        ModelError: the model can't be loaded.
    """
    if endpoint is not None and model_path is not None:
        raise ConfigError("`--llm-endpoint` and `--model-path` are two ways to get a model; give one of them")
    if (endpoint is None) != (model is None):
        raise ConfigError("`--llm-endpoint URL` and `--model NAME` go together")
    if model_path is not None:
        with native_service(model_path) as service, _gateway(store, sampling) as proxy:
            proxy.set_backend(model_path, service)
            yield {RESOURCE: proxy.as_resource()}
    elif endpoint is not None and model is not None:
        with _gateway(store, sampling) as proxy:
            key = os.environ.get("OPENAI_API_KEY")
            params = {"model": f"openai/{model}", "api_base": endpoint, "api_key": key}
            proxy.update_model_list([{"model_name": model, "litellm_params": params}])
            yield {RESOURCE: proxy.as_resource()}
    else:
        yield None


def check_model(target: str, agent: LitAgent[Any], resources: NamedResources | None) -> None:
    """Refuse to run an agent without the model that it needs.

    Args:
        target: What the user calls the agent.

    Raises:
        ConfigError: there is none.
    """
    if resources is not None or not agent.needs_resources:
        return
    mend = "`--llm-endpoint URL --model NAME`, or `--model-path MODEL`"
    if not isinstance(agent, FunctionalLitAgent):
        mend += "; if it needs none, its class says `needs_resources = False`"
    raise ConfigError(f"`{target}` needs a model: {mend}")


@contextmanager
def _gateway(store: LightningStore, sampling: Mapping[str, Any] | None) -> Generator[LLMProxy]:
    from agentlightning.llm_proxy import LLMProxy

    proxy = LLMProxy(store=store)
    if sampling:
        proxy.sampling_parameters = {"val": dict(sampling)}
    asyncio.run(proxy.start())
    try:
        yield proxy
    finally:
        asyncio.run(proxy.stop())
