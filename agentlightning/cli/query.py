"""`agl query`: look into a store, a running one or a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args
from urllib.parse import urlsplit

import typer

from agentlightning.types import ConfigError, StoreUnavailableError, WorkerStatus

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

DEFAULT_STORE = "http://127.0.0.1:4747"
"""Where `agl store` serves."""
REDRAW_S = 1.0
FILES = ("store.sqlite", "agl-store.sqlite")
"""What a directory's store is called: that of a run, and that of `agl store`."""
AT_ONCE = 16
"""How many rollouts are asked for their rewards at the same time."""


class Kind(StrEnum):
    """What can be asked for."""

    ROLLOUTS = "rollouts"
    ATTEMPTS = "attempts"
    SPANS = "spans"
    WORKERS = "workers"
    RESOURCES = "resources"
    STATISTICS = "statistics"


TAKEN_BY = {
    "--status": (Kind.ROLLOUTS, Kind.WORKERS),
    "--contains": (Kind.ROLLOUTS, Kind.SPANS, Kind.WORKERS, Kind.RESOURCES),
    "--attempt": (Kind.SPANS,),
}
"""Options that not everything takes."""


class Wish(NamedTuple):
    """What is asked for."""

    kind: Kind
    rollout_id: str | None
    attempt: str
    status: tuple[str, ...]
    contains: str | None
    sort: str | None
    desc: bool
    limit: int
    rewards: bool


class Answer(NamedTuple):
    """What came back."""

    items: Sequence[Any]
    total: int
    rewards: dict[str, float | None]
    """By rollout id."""


def query(
    kind: Annotated[Kind, typer.Argument(help="What to look at.")],
    rollout_id: Annotated[
        str | None, typer.Argument(metavar="[ROLLOUT_ID]", help="Of this rollout; needed for attempts and spans.")
    ] = None,
    *,
    store: Annotated[
        str,
        typer.Option(
            metavar="URL|PATH",
            help="A running store by its URL, a SQLite file, a run directory, or `postgresql://...`.",
        ),
    ] = DEFAULT_STORE,
    status: Annotated[list[str] | None, typer.Option(help="Only with this status. May be given several times.")] = None,
    contains: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only where the id, of a span its name, contains this.")
    ] = None,
    attempt: Annotated[str, typer.Option(metavar="ID", help="Spans of this attempt; `latest`, or `all`.")] = "latest",
    sort: Annotated[str | None, typer.Option(metavar="FIELD", help="Sort by a field, such as `start_time`.")] = None,
    desc: Annotated[bool, typer.Option("--desc", help="Largest, or newest, first.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most N rows.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="All rows.")] = False,
    rewards: Annotated[
        bool | None, typer.Option("--rewards/--no-rewards", help="Look up rewards. Default: in tables.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Ask again every second, until Ctrl-C.")] = False,
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", envvar="AGL_STORE_TOKEN", help="What the store asks for.")
    ] = None,
) -> None:
    """Show what is in a store: a table, or JSON lines for other programs.

    ```
    agl query statistics --watch                            # how far is it?
    agl query rollouts --sort start_time --desc             # the newest, with their rewards
    agl query rollouts --status failed --json | jq .attempt.metadata.error.message
    agl query spans ro-0123456789ab                         # what happened in this one
    agl query workers                                       # who works, and when they were last heard of
    agl query rollouts --store runs/first                   # a run's store, also while it runs
    ```

    Nothing is changed, and a file is read without getting in the way of who works with it.
    """
    if kind in (Kind.ATTEMPTS, Kind.SPANS) and rollout_id is None:
        raise ConfigError(f"`agl query {kind}` needs the id of a rollout; `agl query rollouts` shows them")
    if kind in (Kind.WORKERS, Kind.RESOURCES, Kind.STATISTICS) and rollout_id is not None:
        raise ConfigError(f"`agl query {kind}` takes no rollout id, and got `{rollout_id}`")
    given = {"--status": bool(status), "--contains": contains is not None, "--attempt": attempt != "latest"}
    for option, kinds in TAKEN_BY.items():
        if given[option] and kind not in kinds:
            raise ConfigError(f"`agl query {kind}` takes no `{option}`; {' and '.join(kinds)} do")
    wish = Wish(
        kind=kind,
        rollout_id=rollout_id,
        attempt=attempt,
        status=tuple(status or ()),
        contains=contains,
        sort=sort,
        desc=desc,
        limit=-1 if everything else limit,
        rewards=rewards if rewards is not None else not as_json,
    )
    try:
        with store_or_hint(store):
            asyncio.run(_run(store, token, wish, as_json=as_json, watch=watch))
    except KeyboardInterrupt:
        if not watch:
            raise


async def _run(place: str, token: str | None, wish: Wish, *, as_json: bool, watch: bool) -> None:
    store = open_store(place, token)
    try:
        if watch and not as_json:
            await _redraw(store, place, wish)
        while True:
            answer = await _ask(store, wish)
            _print(answer, wish, place, as_json=as_json)
            if not watch:
                return
            await asyncio.sleep(REDRAW_S)
    finally:
        await store.close()


@contextmanager
def store_or_hint(place: str) -> Generator[None]:
    """Say how to look into a run where nobody serves a store at the default place."""
    try:
        yield
    except StoreUnavailableError as error:
        if place != DEFAULT_STORE:
            raise
        raise StoreUnavailableError(f"{error}. A run's own store is given as `--store runs/NAME`") from error


def open_store(place: str, token: str | None) -> LightningStore:
    """The store that `--store` names."""
    from agentlightning.store.client_server import LightningStoreClient
    from agentlightning.store.sql import SqlLightningStore

    if place.startswith(("http://", "https://")):
        _check_url(place)
        return LightningStoreClient(place, token=token, retry_delays=(0.2, 0.8))
    if "://" in place and not place.startswith("sqlite:///"):
        try:
            return SqlLightningStore(place, scan_interval=3600.0)  # several may have one open; servers watch it
        except ValueError as error:
            raise ConfigError(f"`--store {place}`: {error}") from error
    from agentlightning.store.reader import SqliteReader

    path = Path(place.removeprefix("sqlite:///"))
    inside = [path / name for name in FILES if (path / name).is_file()]
    return SqliteReader(inside[0] if inside else path)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        found = bool(parts.hostname) and parts.port != 0  # a port that is none raises
    except ValueError:
        found = False
    if not found:
        raise ConfigError(f"`--store {url}` names no host and port; give a URL as `http://127.0.0.1:4747`")


# -- asking ---------------------------------------------------------------------------------------------------------


async def _ask(store: LightningStore, wish: Wish) -> Answer:
    try:
        if wish.kind is Kind.STATISTICS:
            return Answer([await store.statistics()], 1, {})
        page = await _page(store, wish)
        if not page and wish.rollout_id and await store.get_rollout_by_id(wish.rollout_id) is None:
            raise ConfigError(f"there is no rollout `{wish.rollout_id}`; `agl query rollouts` shows which there are")
    except (ValueError, TypeError) as error:  # a field or a status that there is not
        raise ConfigError(str(error)) from error
    rewards: dict[str, float | None] = {}
    if wish.kind is Kind.ROLLOUTS and wish.rewards:
        rewards = await _rewards(store, [rollout.rollout_id for rollout in page])
    return Answer(page, page.total, rewards)


async def _page(store: LightningStore, wish: Wish) -> Any:
    order: dict[str, Any] = {"sort_order": "desc" if wish.desc else "asc", "limit": wish.limit}
    if wish.sort is not None or wish.desc:
        order["sort_by"] = wish.sort or ("sequence_id" if wish.rollout_id else None)
    status: Any = list(wish.status) or None
    match wish.kind:
        case Kind.ROLLOUTS:
            if wish.desc and wish.sort is None:
                order["sort_by"] = "start_time"
            ids = None if wish.rollout_id is None else [wish.rollout_id]
            return await store.query_rollouts(
                status_in=status, rollout_id_in=ids, rollout_id_contains=wish.contains, **order
            )
        case Kind.ATTEMPTS:
            assert wish.rollout_id is not None
            return await store.query_attempts(wish.rollout_id, **order)
        case Kind.SPANS:
            assert wish.rollout_id is not None
            attempt = None if wish.attempt == "all" else wish.attempt
            return await store.query_spans(wish.rollout_id, attempt, name_contains=wish.contains, **order)
        case Kind.WORKERS:
            if unknown := set(wish.status) - set(get_args(WorkerStatus)):
                raise ConfigError(f"`--status` is {min(unknown)!r}; give one of {', '.join(get_args(WorkerStatus))}")
            return await store.query_workers(status_in=status, worker_id_contains=wish.contains, **order)
        case _:
            return await store.query_resources(resources_id_contains=wish.contains, **order)


async def _rewards(store: LightningStore, rollout_ids: Sequence[str]) -> dict[str, float | None]:
    from agentlightning.emitter import find_final_reward
    from agentlightning.semconv import AGL_REWARD

    slots = asyncio.Semaphore(AT_ONCE)

    async def reward(rollout_id: str) -> float | None:
        async with slots:
            spans = await store.query_spans(rollout_id, "latest", name=AGL_REWARD, sort_order="desc", limit=1)
            return find_final_reward(list(spans))

    return dict(zip(rollout_ids, await asyncio.gather(*map(reward, rollout_ids)), strict=True))


# -- showing --------------------------------------------------------------------------------------------------------


def _print(answer: Answer, wish: Wish, place: str, *, as_json: bool) -> None:
    if as_json:
        for item in answer.items:
            typer.echo(_json_line(item, answer.rewards))
        return
    from rich.console import Console

    from .query_tables import table

    console = Console()
    console.print(table(wish.kind, answer, place, console.width))


async def _redraw(store: LightningStore, place: str, wish: Wish) -> None:
    from rich.live import Live

    from .query_tables import table

    with Live(auto_refresh=False, screen=False) as live:
        while True:
            drawn = table(wish.kind, await _ask(store, wish), place, live.console.width)
            live.update(drawn, refresh=True)
            await asyncio.sleep(REDRAW_S)


def _json_line(item: Any, rewards: dict[str, float | None]) -> str:
    fields: dict[str, Any] = dict(item) if isinstance(item, dict) else item.model_dump(exclude={"token_call"})
    call = getattr(item, "token_call", None)
    if call is not None:
        arrays = ("prompt_ids", "response_ids", "logprobs")
        others = ("model", "finish_reason", "weights_version", "temperature")
        values: dict[str, Any] = {name: getattr(call, name) for name in (*arrays, *others)}
        fields["token_call"] = {
            name: value.tolist() if name in arrays and value is not None else value for name, value in values.items()
        }
    if fields.get("rollout_id") in rewards:
        fields["reward"] = rewards[fields["rollout_id"]]
    return json.dumps(fields, ensure_ascii=False, default=str)
