"""`agl store`: serve a store to runners and algorithms in other processes and on other machines."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from agentlightning.types import ConfigError

DEFAULT_FILE = "agl-store.sqlite"


def store(
    home: Annotated[
        str,
        typer.Argument(
            metavar="[PATH|URL]", help="A SQLite file (made if it is not there), or `postgresql://user:pw@host/db`."
        ),
    ] = DEFAULT_FILE,
    *,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=65535, envvar="AGL_SERVER_PORT", help="Port to listen on; 0 takes a free one."
        ),
    ] = 4747,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", envvar="AGL_STORE_TOKEN", help="What runners and algorithms must show."),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Keep everything in memory only: quick, and gone with the server.")
    ] = False,
    retention: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Keep the newest N ended rollouts. Default: all on disk, 10000 in memory."
        ),
    ] = None,
    supervise: Annotated[
        bool, typer.Option("--supervise/--no-supervise", help="Start the server again if it dies (not with --memory).")
    ] = True,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Web pages from here may call; `*` is all. May be given several times."),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR. Default: WARNING.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="`memory` is `--memory`, `sqlite` and `postgresql` follow HOME.")
    ] = None,
    tracker: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="`prometheus`: always there, at `/v1/prometheus`.")
    ] = None,
    parent: Annotated[bool, typer.Option("--parent", hidden=True, help="Ends when stdin does.")] = False,
) -> None:
    """Serve a store: the queue, ledger and archive of a training.

    Without arguments it serves the file `agl-store.sqlite` in this directory on port 4747. What was stored there
    before is still there:

    ```
    agl store
    agl store runs/first/store.sqlite --port 4800
    agl store postgresql://me:secret@db.example/agl --host 0.0.0.0 --token "$(openssl rand -hex 16)"
    ```

    Then start runners (`agl runner`) and the algorithm, in any order, on any machine that reaches it, and look at it
    with `agl query`. Ctrl-C or SIGTERM ends it; whoever waits for work is told, and runners end.
    """
    from . import store_process

    level = _level(log_level)
    memory = _memory(backend, memory, home)
    _check_tracker(tracker)
    settings = store_process.Settings(
        home=None if memory else home,
        host=host,
        port=port,
        token=token,
        retention=retention,
        cors_origins=tuple(cors_origin or ()),
        log_level=level,
    )
    if supervise and not memory and not parent:
        raise typer.Exit(store_process.supervise(settings))
    store_process.serve(settings, parent=parent)


def _level(name: str | None) -> str | None:
    if name is None:
        return None
    if name.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ConfigError(f"`--log-level` is {name!r}; give DEBUG, INFO, WARNING, ERROR or CRITICAL")
    logging.getLogger().setLevel(name.upper())
    return name.upper()


def _memory(backend: str | None, memory: bool, home: str) -> bool:
    if backend not in (None, "memory", "sqlite", "postgresql"):
        raise ConfigError(
            f"`--backend {backend}` is not built; `agl store FILE` keeps everything in SQLite, and "
            "`agl store postgresql://...` in PostgreSQL, for several servers"
        )
    memory = memory or backend == "memory"
    if memory and home != DEFAULT_FILE:
        raise ConfigError(f"`--memory` keeps nothing in `{home}`; leave one of them out")
    if backend == "postgresql" and "://" not in home:
        raise ConfigError(f"`--backend postgresql` needs its URL, `agl store postgresql://...`, not `{home}`")
    return memory


def _check_tracker(tracker: list[str] | None) -> None:
    for name in tracker or ():
        if name != "prometheus":
            raise ConfigError(
                f"`--tracker {name}` is not built; `/v1/prometheus` is always there, and "
                "`agl query statistics --watch` shows the counts"
            )
