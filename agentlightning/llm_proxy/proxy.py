"""`LLMProxy`: the gateway's public face. Algorithms start it, say which models it serves, and hand it to agents.

Called by algorithms and the trainer; puts together `routes`, `gateway` and `app`, and serves them from a thread.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from agentlightning.store.base import LightningStore
from agentlightning.types import LLM, ConfigError, ProxyLLM
from agentlightning.utils.server_thread import ThreadedServer, host_in_url, is_loopback

from .app import create_app
from .backend import Backend
from .gateway import Gateway
from .ledger import RolloutUsage
from .limits import MAX_PARALLEL_REQUESTS
from .routes import ModelRoutes

MAX_BODY_BYTES = 10 * 1024 * 1024
NO_KEY = "none"
"""The `api_key` of resources where none is needed: OpenAI's client refuses to start without one."""


class LLMProxy:
    """The gateway: OpenAI's and Anthropic's interfaces in front, any backend behind, every call of an attempt recorded.

    Args:
        port: Where to listen; `None`: a free port, chosen at `start`.
        model_list: Endpoints, see `update_model_list`.
        store: Where attempts are looked up and spans go.
        host: Address to listen on.
        litellm_config: Of Agent-Lightning 0.3; its `model_list` is taken, nothing else is known here.
        num_retries: How often a call that failed before its first token is tried again, on another endpoint if there
            is one.
        num_workers: Of Agent-Lightning 0.3; not used: one event loop serves all calls.
        launch_mode: Of Agent-Lightning 0.3; the gateway always runs in a thread.
        launcher_args: Of Agent-Lightning 0.3; not used.
        middlewares: Of Agent-Lightning 0.3; not used: what its middlewares did, the gateway does.
        callbacks: Of Agent-Lightning 0.3; not used, likewise.
        access_host: Host name in the URLs given to agents; by default `host`, or 127.0.0.1 where that is a wildcard.
        api_key: What callers must show; needed unless `host` is a loopback address.
        max_body_bytes: Longest request body; longer ones get 413.
        max_parallel_requests: Calls that run at once over all models; further ones wait.
        rpm: Calls that begin within a minute, over all models; further ones wait.
        spool_dir: Directory for spans that wait for a store which can't be reached. A gateway that was killed finds
            them there again. `None`: a temporary one, which another process would not find.

    `sampling_parameters` holds, by rollout mode, what is put over the agents' own parameters, as in
    `{"train": {"temperature": 1.0, "max_tokens": 512}, "val": {"temperature": 0.0}}`. `max_tokens` is an upper bound.

    Raises:
        ConfigError: a model list or port that can't be used, or an open host without `api_key`.
    """

    def __init__(
        self,
        port: int | None = None,
        model_list: Sequence[Mapping[str, Any]] | None = None,
        store: LightningStore | None = None,
        host: str | None = None,
        litellm_config: Mapping[str, Any] | None = None,
        num_retries: int = 2,
        num_workers: int = 1,
        launch_mode: str = "thread",
        launcher_args: Any = None,
        middlewares: Sequence[Any] | None = None,
        callbacks: Sequence[Any] | None = None,
        *,
        access_host: str | None = None,
        api_key: str | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_parallel_requests: int | None = MAX_PARALLEL_REQUESTS,
        rpm: int | None = None,
        spool_dir: Path | str | None = None,
    ) -> None:
        host = host or "127.0.0.1"
        if not is_loopback(host) and not api_key:
            raise ConfigError(
                f"`host` {host!r} can be reached from other machines, so it needs an `api_key`; or listen on 127.0.0.1"
            )
        if num_workers != 1:
            warnings.warn("`num_workers` is not used: one event loop serves all calls", stacklevel=2)
        unused = {"launcher_args": launcher_args, "middlewares": middlewares, "callbacks": callbacks}
        for name in (name for name, value in unused.items() if value is not None):
            warnings.warn(f"`{name}` is not used: the gateway records and streams by itself", stacklevel=2)
        self._access_host = host_in_url(host, access_host)
        self._api_key = api_key
        self._max_body_bytes = max_body_bytes
        self._routes = ModelRoutes(num_retries=num_retries, max_parallel_requests=max_parallel_requests, rpm=rpm)
        self._gateway = Gateway(self._routes, store, None if spool_dir is None else Path(spool_dir))
        self._server = ThreadedServer(host, port, self._app, name="agentlightning-gateway", on_stop=self._gateway.close)
        self.update_model_list(model_list or _models_of(litellm_config) or [])

    # -- models and store -------------------------------------------------------------------------------------------

    def update_model_list(self, model_list: Sequence[Mapping[str, Any]]) -> None:
        """Replace the endpoints, also while running. Backends given to `set_backend` stay.

        Args:
            model_list: Entries `{"model_name": name for agents, "litellm_params": {"model": name at the endpoint,
                "api_base": its URL, "api_key": optional}}`; docs/gateway.md lists all keys. Several entries of one
                name share its rollouts.

        Raises:
            ConfigError: an entry that can't be used; the old list stays.
        """
        self._routes.set_model_list(model_list)

    def set_backend(self, model_name: str, backend: Backend | None) -> None:
        """Serve `model_name` by a backend in this process, such as the native engine's; `None` takes it away."""
        self._routes.set_backend(model_name, backend)

    @property
    def sampling_parameters(self) -> dict[str, dict[str, Any]]:
        """By rollout mode, or by a rollout's `metadata["sampling"]`: what is put over the agents' own parameters."""
        return self._gateway.sampling_parameters

    @sampling_parameters.setter
    def sampling_parameters(self, by_mode: dict[str, dict[str, Any]]) -> None:
        self._gateway.sampling_parameters = by_mode

    def set_store(self, store: LightningStore | None) -> None:
        """Record into `store`.

        Raises:
            RuntimeError: the gateway runs, with another one.
        """
        if self.is_running() and store is not self._gateway.store:
            raise RuntimeError("the gateway records into another store; `await proxy.stop()` first")
        self._gateway.store = store

    def get_store(self) -> LightningStore | None:
        """The store that calls are recorded in, if any."""
        return self._gateway.store

    def usage(self, rollout_id: str) -> RolloutUsage:
        """What the calls of a rollout have used: tokens, and money where the model list has prices."""
        return self._gateway.ledger.of(rollout_id)

    # -- weight updates ---------------------------------------------------------------------------------------------

    def pause(self, model: str | None = None) -> None:
        """Let new calls wait until `resume`; running ones go on. From any thread.

        Args:
            model: Only calls of this name; `None`: all.
        """
        self._routes.pause(model)

    def resume(self, model: str | None = None) -> None:
        """Undo a `pause` with the same `model`. From any thread."""
        self._routes.resume(model)

    @property
    def paused(self) -> bool:
        """Whether calls of all models wait."""
        return self._routes.paused

    async def drain(self, timeout: float | None = None, model: str | None = None) -> None:
        """Return when no call is at a backend; after `pause`, none will be until `resume`. In any event loop.

        Args:
            timeout: Longest time to wait in seconds.
            model: Only calls of this name; `None`: all.

        Raises:
            TimeoutError: calls still run.
        """
        await self._routes.drain(timeout, model)

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve, in a thread of its own; returns when requests are taken. Nothing happens if it runs already.

        Raises:
            ConfigError: the port is taken.
        """
        await self._server.start()
        self._server.call_in_loop(self._gateway.deliver)

    async def stop(self) -> None:
        """Finish running calls (those that take longer than 10 s are cancelled) and end. Twice does no harm."""
        await self._server.stop()

    async def restart(self) -> None:
        """`stop` and `start`; without a fixed `port` on another one."""
        await self.stop()
        await self.start()

    def is_running(self) -> bool:
        """Whether requests are served."""
        return self._server.is_running()

    def _app(self) -> ASGIApp:
        self._gateway.open()
        return create_app(self._gateway, api_key=self._api_key, max_body_bytes=self._max_body_bytes)

    # -- resources --------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that is listened on.

        Raises:
            RuntimeError: not started yet and no `port` was given.
        """
        return self._server.port

    @property
    def base_url(self) -> str:
        """URL for an OpenAI client whose calls belong to no rollout."""
        return f"http://{self._access_host}:{self.port}/v1"

    def as_resource(
        self,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        model: str | None = None,
        sampling_parameters: Mapping[str, Any] | None = None,
    ) -> LLM:
        """The gateway as a resource for agents.

        Args:
            rollout_id: With `attempt_id`: a plain `LLM` for that attempt. Without both: a `ProxyLLM`, which makes the
                URL of each attempt itself.
            attempt_id: See `rollout_id`.
            model: Name to ask for; by default the first that is served.
            sampling_parameters: Handed to the agent, which may use them or not.

        Raises:
            ValueError: one id without the other, or a model that is not served.
            RuntimeError: the port is not known yet.
        """
        names = self._routes.names
        name = model if model is not None else next(iter(names), None)
        if name is None or name not in names:
            raise ValueError(f"`model` {name!r} is not served; give one of {names} or add it with `set_backend`")
        shared: dict[str, Any] = {
            "model": name,
            "api_key": self._api_key or NO_KEY,
            "sampling_parameters": dict(sampling_parameters or {}),
        }
        resource = ProxyLLM(endpoint=self.base_url, confirms_calls=True, **shared)
        if rollout_id is None and attempt_id is None:
            return resource
        return LLM(endpoint=resource.get_base_url(rollout_id, attempt_id), **shared)


def _models_of(litellm_config: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]] | None:
    if litellm_config is None:
        return None
    if unknown := [key for key in litellm_config if key != "model_list"]:
        warnings.warn(f"of `litellm_config` only `model_list` is used, not {unknown}", stacklevel=3)
    return litellm_config.get("model_list")
