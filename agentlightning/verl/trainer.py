"""`AgentLightningTrainer`: the reinforcement-learning loop, synchronous, top to bottom in `fit`.

    for each step:  tasks -> rollouts (collect: daemon, store, runners, gateway, engine)
                    -> groups -> what each turn earned (rows) -> log-probs, advantages, new weights (policy)

Called by `algorithm.verl.VERL`. Everything it decides is a function of (config, seed, step) and of what was rolled out,
so a killed run goes on from its last checkpoint and, on a CPU in fp32, writes the metrics that an uninterrupted run
would have written.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentlightning.adapter import EpisodeAdapter
from agentlightning.credit import CreditRule
from agentlightning.learner.advantages import requirements
from agentlightning.learner.checkpoint import TRACKER, latest_checkpoint, load_checkpoint, save_checkpoint
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

from .collect import Collected, Collector, shaping
from .config import VerlConfig
from .daemon import AgentModeDaemon, Sample, finished_rollouts
from .deploy import Served, make_policy
from .dump import describe, some, write_lines
from .metrics import (
    overlong_metrics,
    policy_metrics,
    response_tokens,
    speed_metrics,
    step_metrics,
    val_metrics,
)
from .policy import PolicyRun
from .rows import Scored, score
from .tasks import TaskOrder, task_order

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 2
"""Steps in a row in which no group could be trained because of failures, after which the run stops."""


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
        self.order = self._task_order(len(tasks))
        total = 0 if trainer.val_only else self._total_steps(len(tasks))
        self.policies = {
            name: make_policy(name, self.config, own, self.served[name], self.credit, total)
            for name, own in self.config.policies().items()
        }
        done, state = self._restore()
        self.daemon = await self._make_daemon(done)
        self.collector = Collector(
            self.config,
            self.daemon,
            self.order,
            tasks,
            greedy=self._needs_baselines(),
            earlier=self.config.agentlightning.spin_pairs == "previous",
        )
        self._take_up(state)
        self.resources_id = (await self.store.update_resources("rs-verl", self.resources)).resources_id
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
                metrics = await self._train_step(step, val_dataset, last=step == total)
                # Metrics first: a kill in between repeats the step, the other way round its line would be lost.
                self._log(step, metrics | self._save_time)
                self._save_time = {}
                if step == total or _due(step, trainer.save_freq):
                    self._save(step)

    async def _train_step(self, step: int, val_dataset: Dataset[Any] | None, *, last: bool) -> dict[str, float]:
        trainer = self.config.trainer
        metrics: dict[str, float] = {}
        started = time.perf_counter()
        with self._timed(metrics, "gen"):
            collected = await self.collector.collect(step, self.resources_id, self.progress.phase(step, "rollouts"))
        self._give_up_if_everything_fails(collected, last=last)
        metrics |= self._learn(collected, step)
        await self.store.update_resources(self.resources_id, self.resources)
        if val_dataset is not None and (last or _due(step, trainer.test_freq)) and trainer.test_freq != 0:
            with self._timed(metrics, "testing"):
                metrics |= await self._validate(step, val_dataset)
        if trainer.rollout_data_dir is not None:
            write_lines(trainer.rollout_data_dir, step, self._texts(collected.samples))
        metrics["training/global_step"] = step
        metrics["training/epoch"] = (self.collector.drawn - 1) // self.order.steps_per_epoch
        metrics["timing_s/step"] = time.perf_counter() - started
        return metrics | speed_metrics(metrics, response_tokens(collected.samples))

    def _learn(self, collected: Collected, step: int) -> dict[str, float]:
        """Every policy learns from its own turns. One policy's metrics keep verl's names, several have prefixes."""
        result: dict[str, float] = {"training/n_generation_batches": float(collected.batches)}
        tokens = 0.0
        for number, (name, policy) in enumerate(self.policies.items()):
            metrics: dict[str, float] = {}
            with self._timed(metrics, "adv"):
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

    def _checkpoint_dir(self) -> Path | None:
        if self.config.trainer.default_local_dir is not None:
            return Path(self.config.trainer.default_local_dir).expanduser()
        return None if self.run_dir is None else self.run_dir / "checkpoints"

    def _parts(self) -> dict[str, Any]:
        """What a checkpoint holds of each policy, by folder: one policy's lie at the top, as in verl."""
        parts: dict[str, Any] = {}
        for name, policy in self.policies.items():
            if policy.own.trainable:
                folder = f"{name}/" if len(self.policies) > 1 else ""
                parts |= {folder + kind: part for kind, part in policy.parts().items()}
        return parts

    def _restore(self) -> tuple[int, dict[str, Any]]:
        """Load the checkpoint to go on from: the number of its step, 0 without one, and the loop's own state."""
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
            return 0, {}
        state = load_checkpoint(path, self._parts())
        step = int(state["step"])
        for served in self.served.values():
            served.engine.set_version(step)
        self.checkpoint = path
        return step, state

    def _take_up(self, state: Mapping[str, Any]) -> None:
        """Put back what the loop itself had remembered."""
        if not state:
            return
        self.collector.load(state["collector"])
        self.order.load(state["order"])
        for name, kl in state["kl"].items():
            self.policies[name].kl.load_state_dict(kl)

    def _save(self, step: int) -> None:
        directory = self._checkpoint_dir()
        if directory is None:
            return
        state = {
            "seed": self.config.agentlightning.seed,
            "collector": self.collector.state(),
            "order": self.order.state(),
            "kl": {name: policy.kl.state_dict() for name, policy in self.policies.items()},
        }
        self._save_time = {}
        with self._timed(self._save_time, "save_checkpoint"):
            keep = self.config.trainer.max_actor_ckpt_to_keep
            self.checkpoint = save_checkpoint(directory, step, self._parts(), state, keep=keep)

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

    def _total_steps(self, tasks: int) -> int:
        trainer = self.config.trainer
        per_epoch = max(tasks // self.config.data.train_batch_size, 1)
        total = trainer.total_training_steps or trainer.total_epochs * per_epoch
        return total if self.max_steps is None else min(total, self.max_steps)

    def _needs_baselines(self) -> bool:
        estimator = self.config.algorithm.adv_estimator
        learning = not all(self.config.is_self_play(own) for own in self.config.policies().values())
        return learning and estimator is not None and requirements(estimator).reward_baselines

    def _give_up_if_everything_fails(self, collected: Collected, *, last: bool) -> None:
        samples = collected.samples
        if (collected.groups or collected.silent) and any(sample.reward is not None for sample in samples):
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
        key = f"timing_s/{name}"
        metrics[key] = metrics.get(key, 0.0) + time.perf_counter() - started


def check_datasets(config: VerlConfig, train: Dataset[Any] | None, val: Dataset[Any] | None) -> None:
    """Raise `DatasetError` where the dataset that the run needs is missing."""
    needed, name = (val, "val_dataset") if config.trainer.val_only else (train, "train_dataset")
    if needed is None:
        raise DatasetError(f"there is no `{name}`; give one, or set `trainer.val_only` to what is meant")


def _why_nothing_is_learned(samples: list[Sample]) -> str:
    errors = Counter(sample.error for sample in samples if sample.error is not None)
    episodes = [episode for sample in samples for episode in sample.episodes.values()]
    if errors:
        reason, count = errors.most_common(1)[0]
        return f"{errors.total()} of {len(samples)} rollouts failed, {count} of them with: {reason}"
    if all(not episode.turns and not episode.missing_token_ids for episode in episodes):
        if any(sample.called for sample in samples):
            return (
                "the adapter left out every call of the LLM; `agent_match` finds names that instrumentation gives"
                ' (`OtelTracer(instrument=True)`) or `agl.operation(**{"agent.name": ...})`'
            )
        return "no rollout called the LLM; the agent must call the endpoint of the `llm` it is given"
    if all(sample.reward is None for sample in samples):
        return "no rollout has a reward; return a number from the agent, or call `agl.emit_reward`"
    if any(episode.missing_token_ids for episode in episodes):
        return "calls came back without token ids; serve the model with the native engine"
    return "the rewards are not finite; return a number from the agent that is neither NaN nor infinite"


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
