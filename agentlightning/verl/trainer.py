"""`AgentLightningTrainer`: the reinforcement-learning loop, synchronous, top to bottom in `fit`.

    for each step:  tasks -> rollouts (collect: daemon, store, runners, gateway, engine)
                    -> groups -> what each turn earned (rows) -> log-probs, advantages, new weights (policy)

Called by `algorithm.verl.VERL`. Everything it decides is a function of (config, seed, step) and of what was rolled out,
so a killed run goes on from its last checkpoint and, on a CPU in fp32, writes the metrics that an uninterrupted run
would have written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentlightning.adapter import EpisodeAdapter
from agentlightning.credit import CreditRule
from agentlightning.learner.advantages import requirements
from agentlightning.report.metrics import MetricsLogger
from agentlightning.report.progress import Progress
from agentlightning.store.base import LightningStore
from agentlightning.types import Dataset, DatasetError, NamedResources, RolloutConfig, TrainingError

from .collect import Collected, Collector, shaping
from .config import VerlConfig
from .daemon import AgentModeDaemon
from .deploy import Served, make_policy
from .dump import describe, some, write_lines
from .failures import DivergedError, FailedSteps
from .metrics import (
    overlong_metrics,
    policy_metrics,
    response_tokens,
    speed_metrics,
    step_metrics,
    timed,
    val_metrics,
)
from .policy import PolicyRun
from .resume import Checkpoints, finished_rollouts
from .rows import Scored, score
from .sample import Sample
from .tasks import TaskOrder, task_order


class AgentLightningTrainer:
    """Trains one policy, or several, on an agent's rollouts.

    Args:
        config: verl's keys, resolved.
        store: Rollouts go out and come back through it.
        served: The models and their engines, by policy.
        resources: What agents are given; it names the policies' endpoints.
        adapters: For each policy, spans of a rollout -> the policy's episode.
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
        served: Mapping[str, Served],
        resources: NamedResources,
        adapters: Mapping[str, EpisodeAdapter],
        credit: CreditRule,
        run_dir: Path | None,
        resume: bool = False,
        max_steps: int | None = None,
        daemon_cls: type[AgentModeDaemon] = AgentModeDaemon,
    ) -> None:
        self.config = config
        self.store = store
        self.served = served
        self.resources = resources
        self.adapters = adapters
        self.credit = credit
        self.run_dir = run_dir
        self.resume = resume
        self.max_steps = max_steps
        self.daemon_cls = daemon_cls
        self.fill = config.agentlightning.reward_fillna_value
        """Reward of a rollout that gave none."""
        self.shape = shaping(config)
        """What is added to the reward of an episode."""
        self.history: list[dict[str, float]] = []
        """Metrics of every logged step, those before a resume included."""
        self.checkpoint: Path | None = None
        """The newest checkpoint."""
        self._failed = FailedSteps()
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
        done, total = await self._prepare(train_dataset if train_dataset is not None else [])
        with (
            MetricsLogger(
                self.run_dir, trainer.logger, project=trainer.project_name, experiment=trainer.experiment_name
            ) as self.logger,
            Progress(total, enabled="console" in trainer.logger) as self.progress,
        ):
            self.history = self.logger.resume(done)
            if (trainer.val_only or (done == 0 and trainer.val_before_train)) and val_dataset is not None:
                first: dict[str, float] = {}
                with timed(first, "testing"):
                    first |= await self._validate(done, val_dataset)
                self._log(done, first)
            for step in range(done + 1, total + 1):
                metrics = await self._train_step(step, val_dataset, last=step == total)
                # Metrics first: a kill in between repeats the step, the other way round its line would be lost.
                self._log(step, metrics | self._save_time)
                self._save_time = {}
                if step == total or _due(step, trainer.save_freq):
                    self._save(step)

    async def _prepare(self, tasks: Dataset[Any]) -> tuple[int, int]:
        """Make what the steps need, as the checkpoint left it: how many steps are done, and how many there are."""
        self.order = self._task_order(len(tasks))
        planned = self._planned_steps(len(tasks))
        total = 0 if self.config.trainer.val_only else min(planned, self.max_steps or planned)
        self.policies = {
            # Schedules are as long as the whole run, wherever this part of it ends.
            name: make_policy(name, self.config, own, self.served[name], self.credit, planned)
            for name, own in self.config.policies().items()
        }
        self.checkpoints = Checkpoints(self.config, self.run_dir, self.policies, resume=self.resume)
        remembered = self.checkpoints.restore()
        self.checkpoint, done = self.checkpoints.newest, self.checkpoints.step
        self.daemon = await self._make_daemon(done)
        self.collector = Collector(
            self.config,
            self.daemon,
            self.order,
            tasks,
            greedy=self._needs_baselines(),
            earlier=self.config.agentlightning.spin_pairs == "previous",
        )
        self._take_up(remembered)
        self.resources_id = (await self.store.update_resources("rs-verl", self.resources)).resources_id
        return done, total

    async def _train_step(self, step: int, val_dataset: Dataset[Any] | None, *, last: bool) -> dict[str, float]:
        trainer = self.config.trainer
        metrics: dict[str, float] = {}
        started = time.perf_counter()
        with timed(metrics, "gen"):
            collected = await self._collect(step, last=last)
        metrics |= self._learn(collected, step)
        await self.store.update_resources(self.resources_id, self.resources)
        if val_dataset is not None and (last or _due(step, trainer.test_freq)) and trainer.test_freq != 0:
            with timed(metrics, "testing"):
                metrics |= await self._validate(step, val_dataset)
        if trainer.rollout_data_dir is not None:
            write_lines(trainer.rollout_data_dir, step, self._texts(collected.samples))
        metrics["training/global_step"] = step
        metrics["training/epoch"] = (self.collector.drawn - 1) // self.order.steps_per_epoch
        metrics["timing_s/step"] = time.perf_counter() - started
        return metrics | speed_metrics(metrics, response_tokens(collected.samples))

    async def _collect(self, step: int, *, last: bool) -> Collected:
        """The rollouts of a step. Where nothing can be learned any more, what was learned until then is saved."""
        before = self._state()
        try:
            collected = await self.collector.collect(step, self.resources_id, self.progress.phase(step, "rollouts"))
            self._failed.count(collected, last=last)
        except DivergedError:
            raise
        except TrainingError:
            self.checkpoints.rescue(step - 1, before)
            self.checkpoint = self.checkpoints.newest
            raise
        return collected

    def _learn(self, collected: Collected, step: int) -> dict[str, float]:
        """Every policy learns from its own turns. One policy's metrics keep verl's names, several have prefixes."""
        result: dict[str, float] = {"training/n_generation_batches": float(collected.batches)}
        tokens = 0.0
        for number, (name, policy) in enumerate(self.policies.items()):
            metrics: dict[str, float] = {}
            with timed(metrics, "adv"):
                groups = self._scored(collected.groups, name)
            if number == 0:  # rollouts and their rewards are those of all policies
                result |= step_metrics(collected.samples, groups, torn=collected.torn, silent=collected.silent)
            self._teach(policy, groups, collected, step, metrics)
            tokens += metrics["perf/total_num_tokens"]
            prefix = f"{name}/" if len(self.policies) > 1 else ""
            result |= {prefix + key: value for key, value in metrics.items()}
        return result | {"perf/total_num_tokens": tokens}

    def _teach(
        self, policy: PolicyRun, groups: list[list[Scored]], collected: Collected, step: int, metrics: dict[str, float]
    ) -> None:
        """One policy's part of a step; what it measures goes into `metrics`."""
        metrics |= policy_metrics(groups, policy.engine.version)
        if self.config.reward.reward_kwargs.overlong_buffer_cfg.log:
            metrics |= overlong_metrics([item.penalty for group in groups for item in group])
        if policy.own.trainable:
            greedy = self._scored([[sample] for sample in collected.baselines.values()], policy.name)
            policy.learn(
                groups,
                step,
                metrics,
                baselines={item.sample.group: item.reward for (item,) in greedy},
                earlier=self._scored(collected.earlier, policy.name),
            )

    def _scored(self, groups: Sequence[Sequence[Sample]], policy: str) -> list[list[Scored]]:
        return score(groups, policy, self.credit, fill=self.fill, shape=self.shape)

    async def _validate(self, step: int, dataset: Dataset[Any]) -> dict[str, float]:
        trainer = self.config.trainer
        samples = await self.daemon.run_batch(
            [(index, dataset[index]) for index in range(len(dataset))],
            n=self.config.actor_rollout_ref.rollout.val_kwargs.n,
            mode="val",
            step=step,
            resources_id=self.resources_id,
            on_progress=self.progress.phase(step, "validation"),
        )
        if trainer.validation_data_dir is not None:
            write_lines(trainer.validation_data_dir, step, self._texts(samples))
        if trainer.log_val_generations:
            self.logger.log_texts(step, "val/generations", self._texts(some(samples, trainer.log_val_generations)))
        return val_metrics(samples, self.fill, self.shape)

    def _texts(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        tokenizers = {name: served.tokenizer for name, served in self.served.items()}
        return describe(samples, tokenizers, fill=self.fill, shape=self.shape)

    # -- resume -----------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """What the loop itself has to remember, as JSON."""
        return {
            "seed": self.config.agentlightning.seed,
            "collector": self.collector.state(),
            "order": self.order.state(),
            "kl": {name: policy.kl.state_dict() for name, policy in self.policies.items()},
        }

    def _take_up(self, state: Mapping[str, Any]) -> None:
        """Put back what the loop itself had remembered."""
        if not state:
            return
        self.collector.load(state["collector"])
        self.order.load(state["order"])
        for name, kl in state["kl"].items():
            self.policies[name].kl.load_state_dict(kl)

    def _save(self, step: int) -> None:
        self._save_time = {}
        with timed(self._save_time, "save_checkpoint"):
            self.checkpoints.save(step, self._state())
        self.checkpoint = self.checkpoints.newest

    async def _make_daemon(self, done: int) -> AgentModeDaemon:
        settings = self.config.agentlightning
        finished = {}
        if self.resume and self.config.trainer.resume_mode == "auto":
            finished = await finished_rollouts(self.store, done, deterministic=self.config.is_deterministic())
        return self.daemon_cls(
            self.store,
            self.adapters,
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

    def _task_order(self, tasks: int) -> TaskOrder:
        """Which tasks are drawn: `train_batch_size` a step; in dynamic sampling `gen_batch_size` at a time."""
        data = self.config.data
        size = data.train_batch_size
        if self.config.algorithm.filter_groups.enable:
            size = data.gen_batch_size or size
        curriculum = self.config.agentlightning.curriculum
        named = {"name": curriculum} if isinstance(curriculum, str) else curriculum
        return task_order(max(tasks, 1), size, seed=data.seed, shuffle=data.shuffle, curriculum=named)

    def _planned_steps(self, tasks: int) -> int:
        """Steps of the whole run, as the configuration says."""
        trainer = self.config.trainer
        per_epoch = max(tasks // self.config.data.train_batch_size, 1)
        return trainer.total_training_steps or trainer.total_epochs * per_epoch

    def _needs_baselines(self) -> bool:
        estimator = self.config.algorithm.adv_estimator
        learning = not all(self.config.is_self_play(own) for own in self.config.policies().values())
        return learning and estimator is not None and requirements(estimator).reward_baselines

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        row = {"step": step, **metrics}
        self.history.append(row)
        self.logger.log(row)
        self.progress.step_done(row)


def check_datasets(config: VerlConfig, train: Dataset[Any] | None, val: Dataset[Any] | None) -> None:
    """Raise `DatasetError` where the dataset that the run needs is missing."""
    needed, name = (val, "val_dataset") if config.trainer.val_only else (train, "train_dataset")
    if needed is None:
        raise DatasetError(f"there is no `{name}`; give one, or set `trainer.val_only` to what is meant")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
