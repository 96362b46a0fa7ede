"""`agl dev`: try an agent on some tasks, with `Trainer.dev`, and show what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlightning.types import AttemptedRollout, Rollout

from .model import check_model, model_resources
from .target import load_agent

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore


def dev(
    agent: Annotated[
        str, typer.Argument(metavar="MODULE:AGENT", help="The agent, as `my_agent:agent` or `path/to/file.py:agent`.")
    ],
    *,
    tasks: Annotated[
        list[Path], typer.Option(metavar="FILE", help="Tasks: .jsonl, .json or .parquet. May be given several times.")
    ],
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Run only the first N tasks.")] = None,
    llm_endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An OpenAI-compatible endpoint; its key comes from OPENAI_API_KEY."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model to ask for at `--llm-endpoint`.")] = None,
    model_path: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Instead: a model directory or hub name, on the native engine.")
    ] = None,
    runners: Annotated[int, typer.Option(metavar="N", help="Runners: workers that execute rollouts.")] = 1,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Rollouts at once in each runner.")] = 8,
) -> None:
    """Run an agent once on each task, learn nothing, and show status, reward and errors.

    The agent gets the model as its `llm`, under the resource name `main_llm`:

    ```
    agl dev my_agent:agent --tasks val.jsonl --limit 20 \\
        --llm-endpoint https://api.openai.com/v1 --model gpt-4o-mini
    agl dev my_agent:agent --tasks val.jsonl --model-path models/mine
    ```

    Exits with 1 if every task failed.
    """
    from agentlightning.algorithm.data import load_dataset
    from agentlightning.store.memory import InMemoryLightningStore
    from agentlightning.trainer import Trainer

    lit_agent = load_agent(agent)
    dataset = load_dataset(tasks)[:limit]
    store = InMemoryLightningStore()
    with model_resources(store, llm_endpoint, model, model_path) as resources:
        check_model(agent, lit_agent, resources)
        trainer = Trainer(n_runners=runners, max_concurrency=concurrency, store=store, initial_resources=resources)
        baseline: Any = trainer.dev(lit_agent, dataset)
    calls = asyncio.run(_count_calls(store, baseline.rollouts))
    _show(baseline.rollouts, baseline.rewards, calls)
    if all(rollout.status != "succeeded" for rollout in baseline.rollouts):
        raise typer.Exit(1)


async def _count_calls(store: LightningStore, rollouts: Sequence[Rollout]) -> list[int]:
    from agentlightning.semconv import LLM_CALL_SPAN

    return [len(await store.query_spans(rollout.rollout_id, "latest", name=LLM_CALL_SPAN)) for rollout in rollouts]


def _error(rollout: Rollout) -> dict[str, str]:
    """Type, message and traceback of what the last attempt failed with; empty if it did not."""
    if isinstance(rollout, AttemptedRollout) and rollout.attempt.metadata:
        return rollout.attempt.metadata.get("error") or {}
    return {}


def _show(rollouts: Sequence[Rollout], rewards: Sequence[float | None], calls: Sequence[int]) -> None:
    import orjson
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table("#", "task", "status", "reward", "LLM calls", "seconds", "error")
    for number, (rollout, reward, count) in enumerate(zip(rollouts, rewards, calls, strict=True), 1):
        task = orjson.dumps(rollout.input, default=str).decode()
        error = _error(rollout)
        table.add_row(
            str(number),
            escape(task if len(task) <= 60 else f"{task[:57]}..."),
            f"[{'green' if rollout.status == 'succeeded' else 'red'}]{rollout.status}[/]",
            "none" if reward is None else f"{reward:g}",
            str(count),
            f"{(rollout.end_time or rollout.start_time) - rollout.start_time:.2f}",
            escape(f"{error['type']}: {error['message']}") if error else "",
        )
    console.print(table)
    _summarise(rollouts, rewards)


def _summarise(rollouts: Sequence[Rollout], rewards: Sequence[float | None]) -> None:
    known = [reward for reward in rewards if reward is not None]
    failed = [rollout for rollout in rollouts if rollout.status != "succeeded"]
    mean = f"mean reward {sum(known) / len(known):.3f}" if known else "no rewards"
    typer.echo(f"{len(rollouts)} tasks: {len(rollouts) - len(failed)} succeeded, {len(failed)} failed; {mean}")
    if failed and (error := _error(failed[0])):
        typer.echo(f"\nthe first failure:\n{error['traceback'].rstrip()}")
    if len(known) < len(rollouts) - len(failed):
        typer.echo("a task without a reward teaches nothing: return a number, or call `agl.emit_reward`")
