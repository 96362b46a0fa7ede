"""`agl eval`: how good is an agent, or a model on questions with known answers? A table with intervals, and JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlightning.litagent import LitAgent
from agentlightning.types import ConfigError

from .model import check_model, model_resources
from .target import load_agent

if TYPE_CHECKING:
    from agentlightning.algorithm.evaluation import Answer

SINGLE_TURN = "single-turn"


def evaluate(
    agent: Annotated[
        str,
        typer.Argument(
            metavar="AGENT",
            help="`my_agent:agent`, `path/to/file.py:agent`, or `single-turn`: ask each row's `prompt` once.",
        ),
    ],
    datasets: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Tasks: .jsonl, .json or .parquet.")],
    *,
    model_path: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model directory or hub name, on the native engine.")
    ] = None,
    llm_endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Instead: an OpenAI-compatible endpoint; its key comes from OPENAI_API_KEY."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model to ask for at `--llm-endpoint`.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", metavar="N", min=1, help="Answers to each task.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Of the sampling. Default: 0 with one answer a task, else 1.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Sample from so much probability.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Longest answer of a call. Default: as the agent says.")
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(metavar="FILE[:FUNCTION]", help="Score `single-turn` with `compute_score` from this file."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N tasks.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 42,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Rollouts at once.")] = 64,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="A rollout that takes longer fails.")
    ] = 600,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the JSON. Default: evals/DATE-TIME.json.")
    ] = None,
) -> None:
    """Measure an agent on tasks: mean, best, worst and majority of n answers, by `data_source`.

    A failed rollout, and one without a reward, counts as 0. The interval says where the mean would be on other tasks
    of the kind, 19 times in 20.

    ```
    agl eval my_agent:agent val.jsonl --model-path models/mine
    agl eval single-turn gsm8k/test.parquet --llm-endpoint http://127.0.0.1:8000/v1 --model mine -n 4
    ```

    Exits with 1 if every rollout failed.
    """
    from agentlightning.algorithm.evaluation import Evaluation
    from agentlightning.store.memory import InMemoryLightningStore
    from agentlightning.trainer import Trainer

    sampling = {"temperature": float(n > 1) if temperature is None else temperature, "top_p": top_p}
    sampling = {name: v for name, v in {**sampling, "max_tokens": max_tokens}.items() if v is not None}
    lit_agent = _agent(agent, reward)
    tasks = _tasks(datasets, lit_agent)[:limit]
    store = InMemoryLightningStore()
    with (
        model_resources(store, llm_endpoint, model, model_path, sampling=sampling) as resources,
        _Bar() as bar,
    ):
        check_model(agent, lit_agent, resources)
        evaluation = Evaluation(n=n, seed=seed, timeout_seconds=timeout, on_progress=bar.show)
        trainer = Trainer(algorithm=evaluation, max_concurrency=concurrency, store=store, initial_resources=resources)
        trainer.dev(lit_agent, val_dataset=tasks)
    metrics = _metrics(tasks, evaluation.answers)
    about = {
        "agent": agent,
        "model": model_path or model,
        "endpoint": llm_endpoint,
        "datasets": [str(path) for path in datasets],
        "n": n,
        "seed": seed,
        "sampling": sampling,
    }
    _show(metrics, evaluation.answers)
    typer.echo(f"written: {_write(output, about, metrics, evaluation.answers)}")
    if all(answer.rollout.status != "succeeded" for answer in evaluation.answers):
        raise typer.Exit(1)


def _agent(target: str, reward: str | None) -> LitAgent[Any]:
    if target != SINGLE_TURN:
        if reward is not None:
            raise ConfigError(f"`--reward` is for the agent `{SINGLE_TURN}`; `{target}` gives its own rewards")
        return load_agent(target)
    from agentlightning.verl.reward import Scorer
    from agentlightning.verl.single_turn import SingleTurnAgent

    path, _, name = (reward or "").partition(":")
    scorer = Scorer(path or None, name or "compute_score")
    scorer.check()
    return SingleTurnAgent(scorer)


def _tasks(files: Sequence[Path], agent: LitAgent[Any]) -> list[Any]:
    """The rows of all files; for the built-in agent checked as `main_ppo` checks them."""
    from agentlightning.algorithm.data import load_dataset
    from agentlightning.verl.prompts import Mends, prompt_rows
    from agentlightning.verl.single_turn import SingleTurnAgent

    if not isinstance(agent, SingleTurnAgent):
        return load_dataset(files)
    rename = "Rename the right one to that"
    mends = Mends(prompt=rename, source=rename, reward="give it as `--reward FILE`")
    return [
        task
        for file in files
        for task in prompt_rows(str(file), load_dataset(file), builtin_rewards=agent.scorer.builtin, mends=mends)
    ]


def _metrics(tasks: Sequence[Any], answers: Sequence[Answer]) -> dict[str, float]:
    from agentlightning.verl.validation import answer_values, source_of, validation_metrics

    return validation_metrics(
        [source_of(tasks[answer.task]) for answer in answers],
        [answer.task for answer in answers],
        answer_values([answer.reward for answer in answers], [answer.rewards for answer in answers]),
        pred=[answer.labels.get("pred") for answer in answers],
    )


def _show(metrics: Mapping[str, float], answers: Sequence[Answer]) -> None:
    from agentlightning.report.validation import print_validation

    print_validation(metrics)
    failed = [answer for answer in answers if answer.rollout.status != "succeeded"]
    silent = sum(answer.reward is None for answer in answers) - sum(answer.reward is None for answer in failed)
    typer.echo(f"{len(answers)} rollouts: {len(answers) - len(failed)} succeeded, {len(failed)} failed")
    reasons = Counter(_reason(answer) for answer in failed)
    for reason, count in reasons.most_common(3):
        typer.echo(f"  {count} times: {reason}")
    if silent:
        typer.echo(f"{silent} rollouts have no reward and count as 0: return a number, or call `agl.emit_reward`")


def _reason(answer: Answer) -> str:
    error = answer.error
    return f"{error['type']}: {error['message']}" if error else answer.rollout.status


def _write(
    output: Path | None, about: Mapping[str, Any], metrics: Mapping[str, float], answers: Sequence[Answer]
) -> Path:
    import orjson

    path = output or Path("evals") / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    rows = [
        {
            "task": answer.task,
            "sample": answer.sample,
            "status": answer.rollout.status,
            "reward": answer.reward,
            "rewards": answer.rewards,
            "labels": answer.labels,
            "answer": answer.text,
            "llm_calls": answer.calls,
            "error": _reason(answer) if answer.rollout.status != "succeeded" else None,
        }
        for answer in answers
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps({**about, "metrics": metrics, "rollouts": rows}, option=orjson.OPT_INDENT_2))
    return path


class _Bar:
    """How many rollouts are done; on a terminal only."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("rollouts", total=None)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, of: int) -> None:
        self._progress.update(self._task, completed=done, total=of)
