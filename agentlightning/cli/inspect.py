"""`agl inspect`: one rollout as training sees it: turns, rows, masks, rewards, and where and why prefixes broke."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlightning.types import AttemptedRollout, ConfigError, Episode, PrefixBreak, Rollout, Span, Trajectory

from .query import DEFAULT_STORE, open_store, store_or_hint

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

Decode = Callable[[Sequence[int]], str]
"""Token ids -> text, special tokens included."""


def inspect(
    rollout_id: Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its id, or a part that only it has.")],
    *,
    store: Annotated[
        str,
        typer.Option(
            metavar="URL|PATH",
            help="A running store by its URL, a SQLite file, a run directory, or `postgresql://...`.",
        ),
    ] = DEFAULT_STORE,
    attempt: Annotated[str, typer.Option(metavar="ID", help="An attempt's id.")] = "latest",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Show text: a model directory or hub name. Default: the model of the run directory."
        ),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print all rows in full, trained text apart.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", envvar="AGL_STORE_TOKEN", help="What the store asks for.")
    ] = None,
) -> None:
    """Show a rollout as training sees it.

    Its turns with token counts and rewards; the rows that they were joined into, and which tokens are trained there;
    and, where a prompt does not continue the call before it token for token, at which turn, why, and what differs.

    ```
    agl query rollouts --store runs/first --sort start_time --desc    # which ones are there?
    agl inspect ro-0123456789ab --store runs/first
    agl inspect ro-0123456789ab --store runs/first --text             # every token's text
    agl inspect ro-0123456789ab --store http://127.0.0.1:4747 --tokenizer models/mine --json
    ```
    """
    with store_or_hint(store):
        rollout, spans = asyncio.run(_read(store, token, rollout_id, attempt))
    decode = _decoder(tokenizer, store)
    if text and decode is None:
        raise ConfigError("`--text` needs the model's tokenizer; give `--tokenizer MODEL`")
    facts = rollout_facts(rollout, spans, decode, text=text)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, default=str))
        return
    from .inspect_view import show

    show(facts)


async def _read(place: str, token: str | None, rollout_id: str, attempt: str) -> tuple[Rollout, list[Span]]:
    store = open_store(place, token)
    try:
        rollout = await _find(store, place, rollout_id)
        if attempt == "latest":
            if not isinstance(rollout, AttemptedRollout):
                raise ConfigError(f"rollout `{rollout.rollout_id}` has no attempt yet: it is `{rollout.status}`")
            attempt = rollout.attempt.attempt_id
        elif attempt not in (known := [a.attempt_id for a in await store.query_attempts(rollout.rollout_id)]):
            raise ConfigError(f"`--attempt {attempt}`: rollout `{rollout.rollout_id}` has {', '.join(known) or 'none'}")
        return rollout, list(await store.query_spans(rollout.rollout_id, attempt))
    finally:
        await store.close()


async def _find(store: LightningStore, place: str, rollout_id: str) -> Rollout:
    """The rollout of this id, or the only one whose id contains it."""
    exact = await store.get_rollout_by_id(rollout_id)
    if exact is not None:
        return exact
    found = await store.query_rollouts(rollout_id_contains=rollout_id, limit=4)
    if len(found) != 1:
        listed = ", ".join(rollout.rollout_id for rollout in found)
        why = f"several fit: {listed}" if listed else "`agl query rollouts` shows which there are"
        raise ConfigError(f"`{place}` has no rollout `{rollout_id}`; {why}")
    return found[0]


def _decoder(tokenizer: str | None, place: str) -> Decode | None:
    """Of the tokenizer that was named, else of the run directory's model if that is still there."""
    from .native import load_decoder

    if tokenizer is not None:
        return load_decoder(tokenizer)
    config = Path(place) / "config.json"
    if not config.is_file():
        return None
    found = json.loads(config.read_text()).get("config", {})
    model = found.get("actor_rollout_ref", {}).get("model", {}).get("path")
    return load_decoder(model) if model is not None and Path(model).is_dir() else None


# -- facts ----------------------------------------------------------------------------------------------------------


def rollout_facts(rollout: Rollout, spans: Sequence[Span], decode: Decode | None, *, text: bool) -> dict[str, Any]:
    """What there is to show, as plain data.

    Args:
        rollout: The rollout.
        spans: Of one of its attempts, in order.
        decode: Token ids -> text; `None` leaves texts out.
        text: Whether rows come with all of their text.
    """
    from agentlightning.adapter import episode_from_spans

    episode = episode_from_spans(spans, rollout.rollout_id)
    calls = [span for span in spans if span.token_call is not None]
    row_of = {turn: row for row, trajectory in enumerate(episode.trajectories) for turn in trajectory.calls}
    return {
        "rollout_id": rollout.rollout_id,
        "attempt_id": spans[0].attempt_id if spans else None,
        "status": rollout.status,
        "mode": rollout.mode,
        "input": rollout.input,
        "error": _error(rollout),
        "reward": episode.reward,
        "rewards": episode.rewards,
        "turns": [_turn(index, episode, span, row_of, decode) for index, span in enumerate(calls)],
        "rows": [_row(trajectory, decode if text else None) for trajectory in episode.trajectories],
        "breaks": [_break(found, decode) for found in episode.prefix_breaks],
        "calls_without_token_ids": episode.missing_token_ids,
        "failed_calls": [span.status.description for span in spans if _failed_call(span)],
    }


def _error(rollout: Rollout) -> str | None:
    metadata = rollout.attempt.metadata if isinstance(rollout, AttemptedRollout) else None
    error = (metadata or {}).get("error")
    return f"{error['type']}: {error['message']}" if error else None


def _failed_call(span: Span) -> bool:
    from agentlightning.semconv import LLM_CALL_NUMBER

    return span.status.status_code == "ERROR" and LLM_CALL_NUMBER in span.attributes


def _turn(index: int, episode: Episode, span: Span, row_of: dict[int, int], decode: Decode | None) -> dict[str, Any]:
    turn = episode.turns[index]
    call = turn.call
    logprobs = call.logprobs
    facts: dict[str, Any] = {
        "turn": index,
        "sequence_id": span.sequence_id,
        "agent": turn.agent,
        "model": call.model,
        "weights_version": call.weights_version,
        "prompt_tokens": len(call.prompt_ids),
        "response_tokens": len(call.response_ids),
        "mean_logprob": float(logprobs.mean()) if logprobs is not None and len(logprobs) else None,
        "finish_reason": call.finish_reason,
        "reward": turn.reward,
        "row": row_of.get(index),
    }
    return facts if decode is None else {**facts, "response": decode(call.response_ids.tolist())}


def _row(trajectory: Trajectory, decode: Decode | None) -> dict[str, Any]:
    """A row and its mask as runs of tokens: `turn` says which turn sampled a run, `None` that it was given."""
    runs: list[dict[str, Any]] = []
    end = 0
    for turn, call in sorted(trajectory.calls.items(), key=lambda item: len(item[1].prompt_ids)):
        start = len(call.prompt_ids)
        runs += [{"start": end, "end": start, "turn": None}] if start > end else []
        end = start + len(call.response_ids)
        runs.append({"start": start, "end": end, "turn": turn})
    if end < len(trajectory.token_ids):
        runs.append({"start": end, "end": len(trajectory.token_ids), "turn": None})
    if decode is not None:
        for run in runs:
            run["text"] = decode(trajectory.token_ids[run["start"] : run["end"]].tolist())
    trained = sum(run["end"] - run["start"] for run in runs if run["turn"] is not None)
    return {"tokens": len(trajectory.token_ids), "trained": trained, "runs": runs}


def _break(found: PrefixBreak, decode: Decode | None) -> dict[str, Any]:
    from agentlightning.adapter.breaks import compare_text

    if decode is not None:
        found = compare_text(found, decode)
    removed, added = found.removed.tolist(), found.added.tolist()
    facts: dict[str, Any] = {
        "turn": found.turn,
        "earlier": found.earlier,
        "position": found.position,
        "in": "answer" if found.in_answer else "prompt",
        "kind": found.kind,
        "reason": found.reason,
        "rejoins": found.rejoins,
        "removed": removed,
        "added": added,
    }
    return facts if decode is None else {**facts, "removed_text": decode(removed), "added_text": decode(added)}
