"""`agl train`: `Trainer.fit` from the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agentlightning.types import ConfigError

from .target import load_agent


class AlgorithmName(StrEnum):
    """What can be trained with from the command line."""

    VERL = "verl"


def train(
    agent: Annotated[
        str, typer.Argument(metavar="MODULE:AGENT", help="The agent, as `my_agent:agent` or `path/to/file.py:agent`.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, by verl's keys: `algorithm.adv_estimator=grpo`."),
    ] = None,
    *,
    run: Annotated[str, typer.Option(metavar="NAME", help="Name of the run; its files go to `RUNS_DIR/NAME`.")],
    train: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Tasks to learn from: .jsonl, .json or .parquet. May be given several times."
        ),
    ] = None,
    val: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Tasks to measure on. May be given several times.")
    ] = None,
    config_name: Annotated[
        str | None,
        typer.Option("--config-name", "-n", metavar="NAME", help="Settings under these: a preset or a .yaml file."),
    ] = None,
    config_path: Annotated[
        Path | None, typer.Option("--config-path", metavar="DIR", help="Where the file `--config-name` is.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run of this name, from its last step.")
    ] = False,
    runners: Annotated[int, typer.Option(metavar="N", help="Runners: workers that execute rollouts.")] = 1,
    concurrency: Annotated[int, typer.Option(metavar="N", help="Rollouts at once in each runner.")] = 8,
    algorithm: Annotated[AlgorithmName, typer.Option(help="What learns.")] = AlgorithmName.VERL,
    max_iterations: Annotated[
        int | None, typer.Option(metavar="N", help="Stop after so many training steps. Default: as the settings say.")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where runs are kept.")] = Path("runs"),
) -> None:
    """Train an agent on its own rollouts.

    A model is needed, as a local directory or a hub name; everything else has a default:

    ```
    agl train my_agent:agent --train train.jsonl --val val.jsonl --run first \\
        actor_rollout_ref.model.path=Qwen/Qwen2.5-0.5B-Instruct \\
        actor_rollout_ref.rollout.n=8 data.train_batch_size=16
    ```

    `--config-name dapo` chooses another algorithm: `agl config --list-presets`. `agl config --explain KEY` says what a
    setting means.

    Without `--train` the tasks come from `data.train_files` and `data.val_files`, else from the agent's own
    `train_dataset` and `val_dataset`. A run that was stopped goes on with the same command and `--resume`.
    """
    from agentlightning.algorithm import VERL
    from agentlightning.algorithm.data import load_dataset
    from agentlightning.trainer import Trainer
    from agentlightning.verl.config import config_file

    run_dir = run_directory(runs_dir, run, resume)
    lit_agent = load_agent(agent)
    learning = {AlgorithmName.VERL: VERL}[algorithm](overrides or [], preset=config_file(config_name, config_path))
    trainer = Trainer(
        algorithm=learning,
        n_runners=runners,
        max_concurrency=concurrency,
        max_iterations=max_iterations,
        run_dir=run_dir,
    )
    train_dataset, val_dataset = (load_dataset(files) if files else None for files in (train, val))
    try:
        trainer.fit(lit_agent, train_dataset, val_dataset=val_dataset, resume=resume)
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command with `--resume` goes on with `{run_dir}`", err=True)
        raise
    typer.echo(f"run: {run_dir}")
    if learning.checkpoint is not None:
        typer.echo(f"checkpoint: {learning.checkpoint}")


def run_directory(runs_dir: Path, run: str, resume: bool) -> Path:
    """Where a run lives.

    Raises:
        ConfigError: `run` is no plain name, or is to be resumed and not there.
    """
    if run in ("", "..") or run != Path(run).name:
        raise ConfigError(
            f"`--run` is a name, not a path, got `{run}`; choose the directory of all runs with `--runs-dir`"
        )
    if resume and not (runs_dir / run).is_dir():
        raise ConfigError(f"there is no run `{runs_dir / run}` to resume; check `--run` and `--runs-dir`")
    return runs_dir / run
