"""Runners in processes of their own, which reach the store over HTTP; the algorithm in this one.

On one machine (`role="both"`) or on several: the algorithm's process serves the store (`algorithm`), the others run
runners only (`runner`). Each is the same script; the roles come from environment variables. Runner processes may come
and go while the run lasts.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal, cast, get_args

from agentlightning.env_var import LightningEnvVar, resolve_bool_env_var, resolve_int_env_var, resolve_str_env_var
from agentlightning.store.base import LightningStore
from agentlightning.types import ConfigError

from .base import AlgorithmBundle, ExecutionStrategy, Role, RunnerBundle
from .events import ExecutionEvent, wait_for_event
from .job import pickled
from .run import Run, refuse_running_loop

if TYPE_CHECKING:
    from agentlightning.store.client_server import LightningStoreServer

    from .supervisor import Supervisor

logger = logging.getLogger(__name__)

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 4747
MARGIN_S = 5.0
GOODBYE_S = 0.5


class ClientServerExecutionStrategy(ExecutionStrategy):
    """Runner processes and a store server.

    Arguments win over environment variables, those over defaults.

    Args:
        role: `both`: all on this machine; `algorithm`: serve the store and run the algorithm, runners are elsewhere;
            `runner`: only runner processes, for a store that is served elsewhere, until it closes. By default
            `AGL_CURRENT_ROLE`, else `both`.
        server_host: Where the store is served; by default `AGL_SERVER_HOST`, else 127.0.0.1. Other than loopback needs
            a token.
        server_port: By default `AGL_SERVER_PORT`, else 4747, and with `both` a free port.
        n_runners: Runner processes.
        graceful_timeout: Seconds that rollouts under way get to finish when the run ends.
        terminate_timeout: Seconds that processes get to end after that, before they are killed.
        main_process: `runner` runs the one runner in this process, to debug an agent.
        managed_store: Whether the store is served by this strategy; `False`: every process takes it as it is, so it
            must be a client or on a database. By default `AGL_MANAGED_STORE`, else yes. A client of a store server
            is never served again.
        allowed_exit_codes: A runner process that ends by itself with one of these has done its work; others are
            replaced.
        max_restarts: How many times a process may crash within a minute, while no rollout is finished, before the run
            is given up.
        token: What callers of the server have to show; by default `AGL_STORE_TOKEN`.

    Raises:
        ConfigError: a role that there is not, or `main_process="runner"` with several runners or another role.
        ValueError: `n_runners` is less than 1.
    """

    alias = "cs"

    def __init__(
        self,
        role: Role | None = None,
        server_host: str | None = None,
        server_port: int | None = None,
        n_runners: int = 1,
        graceful_timeout: float = 10.0,
        terminate_timeout: float = 10.0,
        main_process: Literal["algorithm", "runner"] = "algorithm",
        managed_store: bool | None = None,
        allowed_exit_codes: Iterable[int] = (0, -15),
        *,
        max_restarts: int = 5,
        token: str | None = None,
    ):
        found = resolve_str_env_var(LightningEnvVar.AGL_CURRENT_ROLE, role, fallback="both")
        if found not in get_args(Role):
            raise ConfigError(f"`role` (or `AGL_CURRENT_ROLE`) is {found!r}; give `algorithm`, `runner` or `both`")
        if n_runners < 1:
            raise ValueError(f"`n_runners` must be at least 1, not {n_runners}")
        if main_process not in ("algorithm", "runner"):
            raise ConfigError(f"`main_process` is {main_process!r}; give `algorithm` or `runner`")
        if main_process == "runner" and (found != "both" or n_runners != 1):
            raise ConfigError(
                f"`main_process='runner'` needs `role='both'` and one runner, not {found!r} and {n_runners}"
            )
        self.role = cast("Role", found)
        self.n_runners = n_runners
        self.graceful_timeout = graceful_timeout
        self.terminate_timeout = terminate_timeout
        self.main_process = main_process
        self.allowed_exit_codes = tuple(allowed_exit_codes)
        self.max_restarts = max_restarts
        self.token = resolve_str_env_var(LightningEnvVar.AGL_STORE_TOKEN, token)
        self.managed_store = resolve_bool_env_var(LightningEnvVar.AGL_MANAGED_STORE, managed_store, fallback=True)
        self.server_host = resolve_str_env_var(LightningEnvVar.AGL_SERVER_HOST, server_host, fallback=DEFAULT_HOST)
        port = resolve_int_env_var(LightningEnvVar.AGL_SERVER_PORT, server_port)
        self.server_port = port if port is not None or self.role == "both" else DEFAULT_PORT
        """`None`: a free one."""

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore | None) -> None:
        """Run this process's side.

        Until the algorithm returns; as `runner` until the store closes, and the algorithm is not called.

        Args:
            algorithm: Runs in this thread.
            runner: Travels to the runner processes, by cloudpickle.
            store: `None` only as `runner`: a client of `server_host` and `server_port`.

        Raises:
            ConfigError: `runner` can't be pickled (the message names the object at fault), or the port is taken.
            RunnerProcessError: runner processes crash again and again.
            RuntimeError: this thread runs an event loop (a notebook).
        """
        refuse_running_loop()
        if self.role == "runner":
            self._execute_runners(runner, store)
            return
        if store is None:
            raise ConfigError(f"`role={self.role!r}` needs a store")
        with_processes = self.role == "both" and self.main_process == "algorithm"
        supervisor = self._supervisor(runner) if with_processes else None
        if self.managed_store and not _is_remote(store):
            self._execute_serving(algorithm, runner, supervisor, store)
        elif supervisor is not None:
            self._execute_both(algorithm, supervisor, store)
        else:
            self._execute_here(algorithm, runner, store)

    def _execute_serving(
        self, algorithm: AlgorithmBundle, runner: RunnerBundle, supervisor: Supervisor | None, store: LightningStore
    ) -> None:
        """Serve the store while the run lasts; it stays open afterwards. Processes start up before it is served."""
        servers: list[LightningStoreServer] = []
        handle: Future[bytes] = Future()

        async def serve_and_run(store: LightningStore, event: ExecutionEvent) -> None:
            try:
                server = self._server(store)
                servers.append(server)
                await server.start()
                handle.set_result(self._client_of(server))
            except BaseException as error:
                handle.set_exception(error)
                raise
            logger.info("the store is served at %s", server.endpoint)
            try:
                await algorithm(server, event)
            finally:
                if self.role == "algorithm":
                    server.end_waits()
                    await self._let_runners_end(store)

        try:
            if supervisor is not None:
                self._run_with(serve_and_run, supervisor, store, handle)
            else:
                self._execute_here(serve_and_run, runner, store)
        finally:
            for server in servers:
                asyncio.run(server.stop())

    def _server(self, store: LightningStore) -> LightningStoreServer:
        from agentlightning.store.client_server import LightningStoreServer  # 0.2 s in which processes start already

        return LightningStoreServer(store, self.server_host, self.server_port, token=self.token)

    def _client_of(self, server: LightningStoreServer) -> bytes:
        """In place of the server, so that runner processes need not import one."""
        from agentlightning.store.client import LightningStoreClient

        return pickled("the store", LightningStoreClient(server.endpoint, token=self.token))

    async def _let_runners_end(self, store: LightningStore) -> None:
        """Serve on while runners elsewhere finish what is under way, so that they need not wonder where we are."""
        if not (await store.query_workers(limit=1)).total:
            return
        ending = asyncio.get_running_loop().time() + self.graceful_timeout
        await asyncio.sleep(min(GOODBYE_S, self.graceful_timeout))  # those that are between two requests
        while asyncio.get_running_loop().time() < ending:
            if not (await store.query_rollouts(status_in=["preparing", "running"], limit=1)).total:
                return
            await asyncio.sleep(0.2)

    def _execute_both(self, algorithm: AlgorithmBundle, supervisor: Supervisor, store: LightningStore) -> None:
        handle: Future[bytes] = Future()
        handle.set_result(pickled("the store", store))
        self._run_with(algorithm, supervisor, store, handle)

    def _run_with(
        self, algorithm: AlgorithmBundle, supervisor: Supervisor, store: LightningStore, handle: Future[bytes]
    ) -> None:
        async def runners(run: Run) -> None:
            await supervisor.run(store, asyncio.wrap_future(handle), run.event)
            if self.role == "runner":
                run.event.set()  # all have ended by themselves: the store is closed, or `max_rollouts` are done

        Run(algorithm, runners, store).execute(self.graceful_timeout + self.terminate_timeout + MARGIN_S)

    def _execute_here(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Without runner processes."""
        from .shared_memory import SharedMemoryExecutionStrategy

        if self.main_process == "algorithm":
            Run(algorithm, None, store).execute(MARGIN_S)
            return
        here = SharedMemoryExecutionStrategy(
            main_thread="runner", join_timeout=self.terminate_timeout, graceful_delay=self.graceful_timeout
        )
        here.execute(algorithm, runner, store)

    def _execute_runners(self, runner: RunnerBundle, given: LightningStore | None) -> None:
        supervisor = self._supervisor(runner)
        store = given if given is not None and (not self.managed_store or _is_remote(given)) else self._client()

        async def wait(store: LightningStore, event: ExecutionEvent) -> None:
            await wait_for_event(event)

        self._execute_both(wait, supervisor, store)

    def _client(self) -> LightningStore:
        from agentlightning.store.client import LightningStoreClient

        return LightningStoreClient(f"http://{self.server_host}:{self.server_port}", token=self.token)

    def _supervisor(self, runner: RunnerBundle) -> Supervisor:
        from .supervisor import Supervisor

        return Supervisor(
            pickled("the runner", runner, getattr(runner, "parts", None)),
            self.n_runners,
            max_restarts=self.max_restarts,
            graceful_timeout=self.graceful_timeout,
            terminate_timeout=self.terminate_timeout,
            allowed_exit_codes=self.allowed_exit_codes,
        )


def _is_remote(store: LightningStore) -> bool:
    if "agentlightning.store.client" not in sys.modules:
        return False  # nobody has made a client or a server, and to import them takes 0.2 s
    from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer

    return isinstance(store, LightningStoreClient) or (isinstance(store, LightningStoreServer) and store.is_running())
