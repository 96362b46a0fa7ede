"""`python -m agentlightning.verl.main_ppo KEY=VALUE ...`: train on data files, without an agent of one's own.

Reads rows in verl's format, runs the built-in agent (`single_turn`) on them, scores its answers by rules or by a
function from a file, and trains with `agl.VERL`. A command, no library: it may import every room, and none imports it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentlightning.algorithm import VERL
from agentlightning.algorithm.data import load_dataset
from agentlightning.trainer import Trainer
from agentlightning.types import AgentLightningError, DatasetError, RunExistsError

from .config import VerlConfig, config_file
from .config.presets import preset_names
from .prompt_lengths import fit_prompts
from .prompts import Json, prompt_rows, warn_of_overlap
from .reward import Scorer
from .single_turn import SingleTurnAgent

_HELP = """\
Every KEY is one of verl's; `agl config --explain KEY` says what it does. What is needed:

  data.train_files=FILE                    .parquet, .jsonl or .json; several as [A,B]. Columns: prompt (chat messages),
                                           data_source, reward_model.ground_truth, extra_info
  actor_rollout_ref.model.path=MODEL       a local directory or hub name

and what is often set:

  data.val_files=FILE                      measured before, during (trainer.test_freq) and after training
  algorithm.adv_estimator=grpo             which algorithm; the default, gae, trains a critic as well
  actor_rollout_ref.rollout.n=8            answers to each prompt
  data.train_batch_size=64                 prompts a step
  data.max_prompt_length=512, data.max_response_length=512
  reward.custom_reward_function.path=F.py  your own compute_score(data_source, solution_str, ground_truth, extra_info)
  trainer.total_epochs=1                   or trainer.total_training_steps
  trainer.val_only=True                    measure and stop; actor_rollout_ref.rollout.val_kwargs.{n,temperature,...}

The run is kept in runs/<trainer.project_name>/<trainer.experiment_name>. The same command again goes on where it
stopped (trainer.resume_mode=auto). docs/data.md explains files and rewards.

example:
  python -m agentlightning.verl.main_ppo algorithm.adv_estimator=rloo \\
      data.train_files=data/gsm8k/train.parquet data.val_files=data/gsm8k/test.parquet \\
      data.train_batch_size=64 actor_rollout_ref.model.path=Qwen/Qwen2.5-0.5B-Instruct \\
      actor_rollout_ref.rollout.n=8 trainer.total_epochs=1
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: exit 0 done, 2 wrong input or a run that can't go on, 130 stopped by Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_intermixed_args(arguments)
    try:
        preset = config_file(options.config_name, options.config_path)
        run(options.overrides, preset=preset, run_dir=options.run_dir, concurrency=options.concurrency)
    except AgentLightningError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the run", file=sys.stderr)
        sys.exit(130)


def run(
    overrides: list[str], *, preset: str | None = None, run_dir: Path | None = None, concurrency: int | None = None
) -> VERL:
    """Train or validate as the settings say.

    Args:
        overrides: `KEY=VALUE` words.
        preset: A configuration to start from, by name.
        run_dir: Directory of the run; default `runs/<trainer.project_name>/<trainer.experiment_name>`.
        concurrency: Rollouts at once; default as many as the engine decodes at once.

    Returns:
        The algorithm, with its `history` and `checkpoint`.

    Raises:
        ConfigError: a setting can't be used.
        DatasetError: a row can't be used.
        ModelError, RunExistsError, TrainingError: see `Trainer.fit`.
    """
    algorithm = VERL(overrides, preset=preset)
    algorithm.reads_rows = True
    config = algorithm.config
    agent, train, val = prepare(config)
    directory = run_dir or Path("runs") / config.trainer.project_name / config.trainer.experiment_name
    trainer = Trainer(
        algorithm=algorithm,
        max_concurrency=concurrency or config.actor_rollout_ref.rollout.max_num_seqs,
        run_dir=directory,
    )
    exists = directory.is_dir() and any(directory.iterdir())
    if exists and config.trainer.resume_mode == "disable":
        raise RunExistsError(
            f"run `{directory}` exists; leave out `trainer.resume_mode=disable` to go on with it, or give this one a "
            "`trainer.experiment_name` of its own"
        )
    trainer.fit(agent, train, val_dataset=val, resume=exists)
    _report(algorithm, directory)
    return algorithm


def prepare(config: VerlConfig) -> tuple[SingleTurnAgent, list[Json] | None, list[Json] | None]:
    """The agent, and the rows of `data.train_files` and `data.val_files`, all of it checked.

    Raises:
        ConfigError: the model, a file or the reward function is missing.
        DatasetError: a row can't be used.
        ModelError: there is no tokenizer.
    """
    from agentlightning.inference.loading import load_tokenizer

    model = config.actor_rollout_ref.model
    needed = "val_files" if config.trainer.val_only else "train_files"
    if not getattr(config.data, needed):
        raise DatasetError(f"`data.{needed}` is not set; give a .parquet, .jsonl or .json file")
    custom = config.reward.custom_reward_function
    scorer = Scorer(custom.path, custom.name, custom.reward_kwargs)
    scorer.check()
    rows = {name: _read(getattr(config.data, f"{name}_files"), config, scorer) for name in ("train", "val")}
    tokenizer = load_tokenizer(
        model.tokenizer_path or model.path,
        chat_template=model.custom_chat_template,
        trust_remote_code=model.trust_remote_code,
    )
    train, val = (None if parts is None else _fitting(parts, config, tokenizer) for parts in rows.values())
    if train is not None and val is not None:
        warn_of_overlap(train, val)
    return SingleTurnAgent(scorer), None if config.trainer.val_only else train, val


def _read(files: str | list[str] | None, config: VerlConfig, scorer: Scorer) -> list[tuple[str, list[Json]]] | None:
    """(file, rows) of each file."""
    data = config.data
    return [
        (
            file,
            prompt_rows(
                file,
                load_dataset(file),
                prompt_key=data.prompt_key,
                reward_fn_key=data.reward_fn_key,
                builtin_rewards=scorer.builtin,
            ),
        )
        for file in ([files] if isinstance(files, str) else files or [])
    ] or None


def _fitting(parts: list[tuple[str, list[Json]]], config: VerlConfig, tokenizer: Any) -> list[Json]:
    data = config.data
    return [
        task
        for file, tasks in parts
        for task in fit_prompts(
            file,
            tasks,
            tokenizer,
            longest=data.max_prompt_length,
            filter_overlong=data.filter_overlong_prompts,
            truncation=data.truncation,
        )
    ]


def _report(algorithm: VERL, directory: Path) -> None:
    from agentlightning.report.validation import print_validation

    validated = [row for row in algorithm.history if any(name.startswith("val-core/") for name in row)]
    if validated:
        print_validation(validated[-1])
    print(f"run: {directory}")
    if algorithm.checkpoint is not None:
        print(f"checkpoint: {algorithm.checkpoint}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agentlightning.verl.main_ppo",
        description="Reinforcement learning on questions with known answers, from data files, with verl's settings.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, in Hydra's grammar")
    parser.add_argument(
        "--config-name", metavar="NAME", help=f"start from a preset ({', '.join(preset_names())}) or a YAML file"
    )
    parser.add_argument("--config-path", type=Path, metavar="DIR", help="where the YAML file of --config-name is")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="keep the run here")
    parser.add_argument("--concurrency", type=int, metavar="N", help="rollouts at once")
    return parser


if __name__ == "__main__":
    main()
