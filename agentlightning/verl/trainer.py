"""`AgentLightningTrainer`: the reinforcement-learning loop, synchronous, top to bottom in `fit`.

    for each step:  tasks -> rollouts (daemon, store, runners, gateway, engine)
                    -> episodes -> groups -> advantages -> rows (rows.py) -> Learner.update -> next weights version

Called by `algorithm.verl.VERL`. Everything it decides is a function of (config, seed, step), so a killed run goes on
from its last checkpoint and, on a CPU in fp32, writes the metrics that an uninterrupted run would have written.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agentlightning.adapter import EpisodeAdapter
from agentlightning.credit import CreditRule
from agentlightning.inference.engine import Engine
from agentlightning.learner.batch import Row
from agentlightning.learner.checkpoint import TRACKER, latest_checkpoint, load_checkpoint, save_checkpoint
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.objectives import Policy
from agentlightning.learner.schedule import Schedule
from agentlightning.report.metrics import MetricsLogger
from agentlightning.report.progress import Progress
from agentlightning.store.base import LightningStore
from agentlightning.types import (
    Dataset,
    DatasetError,
    NamedResources,
    RolloutConfig,
    RunExistsError,
    TrainingError,
)
from agentlightning.types.tokens import Float32

from .config import VerlConfig
from .daemon import AgentModeDaemon, Sample, finished_rollouts
from .metrics import train_metrics, val_metrics
from .rows import mini_batches, score, whole_groups
from .tasks import TaskOrder

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 2
"""Steps in a row in which no group could be trained because of failures, after which the run stops."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the loop trains and where the agents find it."""

    engine: Engine
    model: Any
    tokenizer: Any
    resources: NamedResources


class AgentLightningTrainer:
    """Trains one policy on an agent's rollouts.

    Args:
        config: verl's keys, resolved.
        store: Rollouts go out and come back through it.
        deployment: The model, the engine that serves it, and the resources that name its endpoint.
        adapter: Spans of a rollout -> its episode.
        credit: What each turn of an episode earned.
        run_dir: Checkpoints and metrics go here; `None` keeps neither.
        resume: Go on with what `run_dir` and the store hold.
        max_steps: Upper bound on training steps, on top of the config's own.
        daemon_cls: Replaces `AgentModeDaemon`.
    """

    def __init__(
        self,
        config: VerlConfig,
        *,
        store: LightningStore,
        deployment: Deployment,
        adapter: EpisodeAdapter,
        credit: CreditRule,
        run_dir: Path | None,
        resume: bool = False,
        max_steps: int | None = None,
        daemon_cls: type[AgentModeDaemon] = AgentModeDaemon,
    ) -> None:
        self.config = config
        self.store = store
        self.deployment = deployment
        self.adapter = adapter
        self.credit = credit
        self.run_dir = run_dir
        self.resume = resume
        self.max_steps = max_steps
        self.daemon_cls = daemon_cls
        self.history: list[dict[str, float]] = []
        """Metrics of every logged step, those before a resume included."""
        self.checkpoint: Path | None = None
        """The newest checkpoint."""
        self._failed_steps = 0
        self._save_time: dict[str, float] = {}
        """How long the last checkpoint took; logged with the step after it."""

    async def fit(self, train_dataset: Dataset[Any] | None, val_dataset: Dataset[Any] | None) -> None:
        """Train on `train_dataset`, validating on `val_dataset` as `trainer.test_freq` says.

        Raises:
            DatasetError: the dataset that is needed is missing.
            TrainingError: nothing could be learned, or the gradient diverged.
            ModelError: a checkpoint can't be written or read.
            RunExistsError: `trainer.default_local_dir` holds checkpoints of another run.
        """
        trainer = self.config.trainer
        check_datasets(self.config, train_dataset, val_dataset)
        tasks = train_dataset if train_dataset is not None else []
        order = TaskOrder(
            max(len(tasks), 1),
            self.config.data.train_batch_size,
            seed=self.config.data.seed,
            shuffle=self.config.data.shuffle,
        )
        total = 0 if trainer.val_only else self._total_steps(order.steps_per_epoch)
        self.learner = self._make_learner(total)
        done = self._restore()
        self.daemon = await self._make_daemon(done)
        self.resources_id = (await self.store.update_resources("rs-verl", self.deployment.resources)).resources_id
        with (
            MetricsLogger(
                self.run_dir, trainer.logger, project=trainer.project_name, experiment=trainer.experiment_name
            ) as self.logger,
            Progress(total, enabled="console" in trainer.logger) as self.progress,
        ):
            self.history = self.logger.resume(done)
            if (trainer.val_only or (done == 0 and trainer.val_before_train)) and val_dataset is not None:
                first: dict[str, float] = {}
                with self._timed(first, "testing"):
                    first |= await self._validate(done, val_dataset)
                self._log(done, first)
            for step in range(done + 1, total + 1):
                metrics = await self._train_step(step, order, tasks, val_dataset, last=step == total)
                # Metrics first: a kill in between repeats the step, the other way round its line would be lost.
                self._log(step, metrics)
                if step == total or _due(step, trainer.save_freq):
                    self._save(step)

    async def _train_step(
        self, step: int, order: TaskOrder, tasks: Dataset[Any], val_dataset: Dataset[Any] | None, *, last: bool
    ) -> dict[str, float]:
        trainer = self.config.trainer
        metrics: dict[str, float] = {}
        started = time.perf_counter()
        with self._timed(metrics, "gen"):
            samples = await self._roll_out(step, [(index, tasks[index]) for index in order.batch(step)])
        with self._timed(metrics, "adv"):
            whole, dropped = whole_groups(samples)
            groups = score(whole, self.config, self.credit)
            batches = mini_batches(groups, self.config, step)
        self._give_up_if_everything_fails(samples, usable=len(whole), last=last)
        with self._timed(metrics, "update_actor"):
            metrics |= self._update(batches)
        await self.store.update_resources(self.resources_id, self.deployment.resources)
        metrics |= train_metrics(samples, groups, dropped_groups=dropped)
        if val_dataset is not None and (last or _due(step, trainer.test_freq)) and trainer.test_freq != 0:
            with self._timed(metrics, "testing"):
                metrics |= await self._validate(step, val_dataset)
        metrics |= {"training/global_step": step, "training/epoch": (step - 1) // order.steps_per_epoch}
        metrics["timing_s/step"] = time.perf_counter() - started
        return metrics | self._save_time

    async def _roll_out(self, step: int, tasks: list[tuple[int, Any]]) -> list[Sample]:
        """All rollouts of a step, `data.gen_batch_size` tasks at a time."""
        size = self.config.data.gen_batch_size or len(tasks)
        samples: list[Sample] = []
        for start in range(0, len(tasks), size):
            samples += await self.daemon.run_batch(
                tasks[start : start + size],
                n=self.config.actor_rollout_ref.rollout.n,
                mode="train",
                step=step,
                resources_id=self.resources_id,
                on_progress=self.progress.phase(step, "rollouts"),
            )
        return samples

    def _update(self, batches: list[list[Row]]) -> dict[str, float]:
        """One pass of `ppo_epochs` over the mini-batches; then the engine serves the next weights version."""
        actor = self.config.actor_rollout_ref.actor
        objective = Policy(
            loss_mode=actor.policy_loss.loss_mode,
            config=actor.model_dump(),
            entropy_coeff=actor.entropy_coeff,
            temperature=self.config.actor_rollout_ref.rollout.temperature,
        )
        updates: list[dict[str, float]] = []
        with self.deployment.engine.updating():
            batches = [self._with_logprobs(rows, objective.temperature) for rows in batches]
            for _ in range(actor.ppo_epochs):
                for number, rows in enumerate(batches):
                    self.progress.phase_now("update", number, len(batches))
                    updates.append(self.learner.update(rows, objective))
            rate = self.learner.lr
            self.learner.advance()
        if not updates:
            return {"actor/lr": rate}
        names = updates[0].keys()
        metrics = {name: sum(update[name] for update in updates) / len(updates) for name in names}
        # The first mini-batch is scored by the very weights that sampled it: its log-ratios are the engine's error.
        metrics["training/rollout_logprob_gap"] = updates[0]["actor/abs_log_ratio"]
        return metrics

    def _with_logprobs(self, rows: list[Row], temperature: float) -> list[Row]:
        """The rows, with log-probs of the present weights where none were recorded (retokenised calls)."""
        lacking = [row for row in rows if row.old_logprobs is not None and np.isnan(row.old_logprobs[row.mask]).any()]
        if not lacking:
            return rows
        made = dict(zip(map(id, lacking), self.learner.logprobs(lacking, temperature), strict=True))
        return [_filled(row, made[id(row)]) if id(row) in made else row for row in rows]

    async def _validate(self, step: int, dataset: Dataset[Any]) -> dict[str, float]:
        samples = await self.daemon.run_batch(
            [(index, dataset[index]) for index in range(len(dataset))],
            n=self.config.actor_rollout_ref.rollout.val_kwargs.n,
            mode="val",
            step=step,
            resources_id=self.resources_id,
            on_progress=self.progress.phase(step, "validation"),
        )
        return val_metrics(samples, self.config.agentlightning.reward_fillna_value)

    # -- resume -----------------------------------------------------------------------------------------------------

    def _checkpoint_dir(self) -> Path | None:
        if self.config.trainer.default_local_dir is not None:
            return Path(self.config.trainer.default_local_dir).expanduser()
        return None if self.run_dir is None else self.run_dir / "checkpoints"

    def _restore(self) -> int:
        """Load the checkpoint to go on from; the number of its step, 0 without one."""
        trainer = self.config.trainer
        directory = self._checkpoint_dir()
        if not self.resume and directory is not None and (directory / TRACKER).exists():
            raise RunExistsError(
                f"`{directory}` holds checkpoints of another run; set `trainer.default_local_dir` anew"
            )
        path: Path | None = None
        if trainer.resume_mode == "resume_path" and trainer.resume_from_path is not None:
            path = Path(trainer.resume_from_path).expanduser()
        elif self.resume and trainer.resume_mode == "auto" and directory is not None:
            path = latest_checkpoint(directory)
        if path is None:
            return 0
        step = int(load_checkpoint(path, self.learner)["step"])
        self.deployment.engine.set_version(step)
        self.checkpoint = path
        return step

    def _save(self, step: int) -> None:
        directory = self._checkpoint_dir()
        if directory is None:
            return
        self._save_time = {}
        with self._timed(self._save_time, "save_checkpoint"):
            self.checkpoint = save_checkpoint(
                directory,
                step,
                self.learner,
                self.deployment.tokenizer,
                {"seed": self.config.agentlightning.seed},
                keep=self.config.trainer.max_actor_ckpt_to_keep,
            )

    async def _make_daemon(self, done: int) -> AgentModeDaemon:
        settings = self.config.agentlightning
        finished = {}
        if self.resume and self.config.trainer.resume_mode == "auto":
            # Rollouts of the next step came from exactly the checkpoint's weights. Later ones came from weights that
            # only a deterministic run makes again.
            until = None if self.config.is_deterministic() else done + 1
            finished = await finished_rollouts(self.store, after_step=done if done else -1, until_step=until)
        return self.daemon_cls(
            self.store,
            self.adapter,
            seed=self.config.actor_rollout_ref.rollout.seed,
            rollout_config=RolloutConfig(
                timeout_seconds=settings.rollout_timeout_seconds,
                # A lost worker costs another try, not the rollout.
                max_attempts=3,
                retry_condition=["unresponsive"],
            ),
            finished=finished,
        )

    # -- small things -----------------------------------------------------------------------------------------------

    def _total_steps(self, steps_per_epoch: int) -> int:
        trainer = self.config.trainer
        total = trainer.total_training_steps or trainer.total_epochs * steps_per_epoch
        return total if self.max_steps is None else min(total, self.max_steps)

    def _make_learner(self, total_steps: int) -> Learner:
        actor, optim = self.config.actor_rollout_ref.actor, self.config.actor_rollout_ref.actor.optim
        length = optim.total_training_steps if optim.total_training_steps > 0 else total_steps
        warmup = optim.lr_warmup_steps if optim.lr_warmup_steps > 0 else int(optim.lr_warmup_steps_ratio * length)
        return Learner(
            self.deployment.model,
            optimizer=OptimizerConfig(
                lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, grad_clip=actor.grad_clip
            ),
            schedule=Schedule(length, warmup, optim.lr_scheduler_type, optim.min_lr_ratio, optim.num_cycles),
            token_budget=actor.ppo_max_token_len_per_gpu,
            threads=self.config.agentlightning.threads,
            gradient_checkpointing=self.config.actor_rollout_ref.model.enable_gradient_checkpointing,
        )

    def _give_up_if_everything_fails(self, samples: list[Sample], *, usable: int, last: bool) -> None:
        rewarded = any(sample.episode.reward is not None for sample in samples)
        if usable and rewarded:
            self._failed_steps = 0
            return
        self._failed_steps += 1
        reason = _why_nothing_is_learned(samples)
        if self._failed_steps >= MAX_FAILED_STEPS or last:
            raise TrainingError(f"nothing could be learned in {self._failed_steps} steps in a row: {reason}")
        logger.warning("nothing could be learned in this step: %s", reason)

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, **metrics}
        self.history.append(row)
        self.logger.log(row)
        self.progress.step_done(row)

    @contextmanager
    def _timed(self, metrics: dict[str, float], name: str) -> Generator[None]:
        started = time.perf_counter()
        yield
        metrics[f"timing_s/{name}"] = time.perf_counter() - started


def check_datasets(config: VerlConfig, train: Dataset[Any] | None, val: Dataset[Any] | None) -> None:
    """Raise `DatasetError` where the dataset that the run needs is missing."""
    needed, name = (val, "val_dataset") if config.trainer.val_only else (train, "train_dataset")
    if needed is None:
        raise DatasetError(f"there is no `{name}`; give one, or set `trainer.val_only` to what is meant")


def _why_nothing_is_learned(samples: list[Sample]) -> str:
    errors = Counter(sample.error for sample in samples if sample.error is not None)
    if errors:
        reason, count = errors.most_common(1)[0]
        return f"{errors.total()} of {len(samples)} rollouts failed, {count} of them with: {reason}"
    if all(not sample.episode.turns and not sample.episode.missing_token_ids for sample in samples):
        if any(sample.called for sample in samples):
            return (
                "the adapter left out every call of the LLM; `agent_match` finds names that instrumentation gives"
                ' (`OtelTracer(instrument=True)`) or `agl.operation(**{"agent.name": ...})`'
            )
        return "no rollout called the LLM; the agent must call the endpoint of the `llm` it is given"
    if all(sample.episode.reward is None for sample in samples):
        return "no rollout has a reward; return a number from the agent, or call `agl.emit_reward`"
    return "calls came back without token ids; serve the model with the native engine"


def _filled(row: Row, logprobs: Float32) -> Row:
    """The row with `logprobs` (N,), of its trained tokens, where it has none."""
    assert row.old_logprobs is not None
    old = row.old_logprobs.copy()
    old[row.mask] = np.where(np.isnan(old[row.mask]), logprobs, old[row.mask])
    return replace(row, old_logprobs=old)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
