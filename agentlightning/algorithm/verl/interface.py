"""`VERL`: deploys the models of its configuration and trains them on the agent's rollouts.

Called by `Trainer.fit`; the loop itself is `agentlightning.verl.trainer`. torch is imported when training starts, so
that making a `VERL` (and refusing a wrong configuration) is instant.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import warnings
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agentlightning.adapter import EpisodeAdapter, episode_adapter
from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.data import load_dataset
from agentlightning.credit import CreditRule, CreditSpec, get_credit
from agentlightning.types import ConfigError, Dataset, NamedResources
from agentlightning.verl.config import load_config
from agentlightning.verl.config.credit import credit_problem
from agentlightning.verl.config.entry import Entry, entry_notes

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.verl.config.schema import PolicyConfig
    from agentlightning.verl.daemon import AgentModeDaemon
    from agentlightning.verl.deploy import Served
    from agentlightning.verl.trainer import AgentLightningTrainer

logger = logging.getLogger(__name__)

_MAY_CHANGE = (
    "trainer.total_",
    "trainer.save_freq",
    "trainer.test_freq",
    "trainer.val_",
    "trainer.max_actor_ckpt_to_keep",
    "trainer.logger",
    "trainer.log_val_",
    "trainer.rollout_data_dir",
    "trainer.validation_data_dir",
    "trainer.project_name",
    "trainer.experiment_name",
    "trainer.resume_",
    "data.val_",
    "actor_rollout_ref.rollout.val_kwargs.",
    "agentlightning.strict",
    "agentlightning.rollout_timeout_seconds",
)
"""Settings that a resumed run may change: how long it goes on, what it measures, writes and waits for."""


class VERL(Algorithm):
    """Reinforcement learning with verl's configuration keys.

    Args:
        config: Overrides of verl's defaults, nested or with dotted keys. `actor_rollout_ref.model.path` is needed.
        trainer_cls: Replaces the training loop.
        daemon_cls: Replaces the part that runs batches of tasks.
        preset: Settings under `config`, by name, such as `dapo` or `spin`: `agl config --list-presets`.
        credit: What each turn of a rollout earned: the name of a rule in `agentlightning.credit`, a mapping with
            `name` and the rule's parameters, or a function of (episode, group) that returns one number (or `None`) a
            turn. Default: `agentlightning.credit` of the configuration.
        adapter: Makes episodes of spans: a `TraceToEpisodes`, or an adapter or function of a rollout's spans that
            returns an `Episode` or a list of `Triplet`s. Default: the trainer's adapter if it has one, else the token
            graph of all calls of the model.

    Needs no initial resource: it serves the model itself, under the resource name `main_llm`, or several under the
    names in `agentlightning.policies`. Resources given to the trainer stay beside them.

    Raises:
        ConfigError: an unknown key, or a value that can't be used.

    After `run`, `history` holds the metrics of every step and `checkpoint` the newest checkpoint.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | list[str] | None = None,
        trainer_cls: type[AgentLightningTrainer] | None = None,
        daemon_cls: type[AgentModeDaemon] | None = None,
        *,
        preset: str | None = None,
        credit: CreditSpec | None = None,
        adapter: Any | None = None,
    ) -> None:
        self.resolved = load_config(config, preset=preset)
        self.config = self.resolved.config
        self.trainer_cls = trainer_cls
        self.daemon_cls = daemon_cls
        self.credit = self._credit(credit)
        self.adapter = adapter
        self._reads_files = False
        self.history: list[dict[str, float]] = []
        self.checkpoint: str | None = None

    reads_rows = False
    """Whether the tasks are rows of data files, read and rewarded as `data.prompt_key`, `reward.*` and the like say:
    `main_ppo` sets it. Else these keys are listed as without effect."""

    def check(self) -> None:
        """Refuse what can't work before anything is started."""
        missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(f"`VERL` needs {' and '.join(missing)}: pip install 'agentlightning[verl]'")
        self.resolved.check_machine()

    def check_resume(self, recorded: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings, but for those that don't change what the steps done so far were."""
        before, now = (_flat(values.get("config", {})) for values in (recorded, self.describe()))
        changed = [key for key in before if before[key] != now.get(key) and not key.startswith(_MAY_CHANGE)]
        if changed:
            key = changed[0]
            raise ConfigError(
                f"the run was begun with `{key}` = {before[key]!r}, and now it is {now.get(key)!r}; "
                "resume with the same settings, or start a new run under another name"
            )

    def default_datasets(self) -> tuple[Dataset[Any] | None, Dataset[Any] | None]:
        """The rows of `data.train_files` and `data.val_files`."""
        data = self.config.data
        self._reads_files = True
        return (
            load_dataset(data.train_files) if data.train_files else None,
            load_dataset(data.val_files) if data.val_files else None,
        )

    def describe(self) -> Mapping[str, Any]:
        config = self.config.model_dump(mode="json")
        config["agentlightning"]["credit"] = self._credit_name
        return {"algorithm": "VERL", "config": config}

    def _credit(self, given: CreditSpec | None) -> CreditRule:
        spec = self.config.agentlightning.credit if given is None else given
        if (problem := credit_problem(spec, self.config)) is not None:
            raise ConfigError(problem)
        self._credit_name = dict(spec) if isinstance(spec, Mapping) else spec if isinstance(spec, str) else _name(spec)
        return get_credit(spec)

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Train.

        Raises:
            ValueError: the store, the proxy or the adapter is missing: run it through `Trainer.fit`, which sees to
                them, or set them.
            DatasetError: the dataset that is needed is missing.
            ModelError: the model can't be loaded, or a checkpoint can't be written.
            TrainingError: nothing could be learned, or the gradient diverged.
        """
        from agentlightning.report.rss import PeakRss
        from agentlightning.verl.daemon import AgentModeDaemon
        from agentlightning.verl.trainer import AgentLightningTrainer, check_datasets

        store = self._store_and_all()
        check_datasets(self.config, train_dataset, val_dataset)  # before the model is loaded, and anything is written
        self._print_notes(train_dataset, val_dataset)
        async with self._models(self.config.policies()) as (served, resources):
            names = self._model_names()
            loop = (self.trainer_cls or AgentLightningTrainer)(
                self.config,
                store=store,
                served=served,
                resources={**(self.get_initial_resources() or {}), **resources},
                adapters={
                    name: self._episodes(names[name], each.tokenizer, each.engine.end_ids)
                    for name, each in served.items()
                },
                credit=self.credit,
                run_dir=self.run_dir,
                resume=self.resume,
                max_steps=self.max_iterations,
                daemon_cls=self.daemon_cls or AgentModeDaemon,
            )
            try:
                with PeakRss() as rss:
                    await loop.fit(*self._limited(train_dataset, val_dataset))
            finally:
                self.history = loop.history
                self.checkpoint = str(loop.checkpoint) if loop.checkpoint else None
        self._report(rss.peak)

    @asynccontextmanager
    async def _models(
        self, policies: Mapping[str, PolicyConfig]
    ) -> AsyncGenerator[tuple[dict[str, Served], NamedResources], None]:
        """The models of `policies` behind the gateway, and the resources that agents find them by."""
        from agentlightning.inference.service import ChatService
        from agentlightning.llm_proxy import LLMProxy
        from agentlightning.verl.deploy import Bases, serve

        bases: Bases = {}
        served = {name: serve(self.config, own, bases) for name, own in policies.items()}
        names = self._model_names()
        # A resumed run finds there what its gateway kept when it was killed.
        spool = None if self.run_dir is None else self.run_dir / "spool"
        proxy = self.get_llm_proxy() or LLMProxy(store=self.get_store(), spool_dir=spool)
        for name, each in served.items():
            proxy.set_backend(names[name], ChatService(each.engine, each.tokenizer, names[name]))
        proxy.sampling_parameters = self._sampling()
        for each in served.values():
            each.engine.start()
        try:
            await proxy.start()
            yield served, {name: proxy.as_resource(model=names[name]) for name in policies}
        finally:
            await proxy.stop()
            for each in served.values():
                each.engine.stop()

    # -- turns of a `Sequence` --------------------------------------------------------------------------------------

    goes_on = True

    def begin_turn(self, number: int, of: int) -> None:
        """Train up to this turn's share of `trainer.total_training_steps`."""
        total = self.config.trainer.total_training_steps
        if total is None:
            raise ConfigError(
                "`trainer.total_training_steps` is not set; a `Sequence` divides them among its rounds: give a number"
            )
        self.max_iterations = math.ceil(total * (number + 1) / of)

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[NamedResources, None]:
        """The models as the newest checkpoint has them; those of the start where there is none."""
        async with self._models(self._newest()) as (_, resources):
            yield resources

    def _newest(self) -> dict[str, PolicyConfig]:
        """The policies with the weights of the newest checkpoint, where there is one."""
        from agentlightning.learner.layout import WEIGHTS, latest_checkpoint

        policies = dict(self.config.policies())
        if self.run_dir is None and self.config.trainer.default_local_dir is None:
            return policies
        directory = self.config.trainer.default_local_dir or f"{self.run_dir}/checkpoints"
        newest = latest_checkpoint(Path(directory).expanduser())
        if newest is None:
            return policies
        for name, own in self.config.policies().items():
            folder = newest / (name if len(policies) > 1 else "") / "actor" / WEIGHTS
            if folder.is_dir():  # one that is frozen has none
                policies[name] = _trained(own, folder)
        return policies

    def _print_notes(self, train: Dataset[Any] | None, val: Dataset[Any] | None) -> None:
        """The table at start: what applies differently here, and what this run does not read."""
        sizes = (None if each is None else len(each) for each in (train, val))
        entry = Entry(self.reads_rows, self.reads_rows or self._reads_files, *sizes)
        self.resolved.print_notes(entry_notes(self.config, self.resolved.given, entry))

    def _store_and_all(self) -> LightningStore:
        """The store. Without a trainer nothing stands in for what is missing; with one the proxy is made here."""
        store = self.get_store()
        if self._trainer is None:
            self._need(self.get_llm_proxy(), "llm_proxy")
            if self.adapter is None:
                self.get_adapter()
        return store

    def get_client(self) -> Any:
        """The store, through which anybody may watch and add rollouts. Of Agent-Lightning 0.1.

        Raises:
            ValueError: there is none: run the algorithm through `Trainer.fit`.
        """
        warnings.warn("`VERL.get_client` is deprecated: use the trainer's store", DeprecationWarning, stacklevel=2)
        return self.get_store()

    def _model_names(self) -> dict[str, str]:
        """What agents call each policy's model: its path, or its resource's name where there are several."""
        policies = self.config.policies()
        if len(policies) == 1:
            return {name: str(own.actor_rollout_ref.model.path) for name, own in policies.items()}
        return {name: name for name in policies}

    def _episodes(self, model: str, tokenizer: Any, end_ids: Iterable[int]) -> EpisodeAdapter:
        """The adapter that was given here or to the trainer, for the calls of `model`."""
        from agentlightning.verl.retokenize import Retokenizer

        given = self.adapter
        if given is None:
            given = self._adapter if self._trainer is None else self._trainer.adapter
        wanted = self.config.agentlightning.retokenize
        # A copy for each policy: an adapter of ours is told whose calls it is to read.
        given = copy.copy(given) if len(self.config.policies()) > 1 else given
        return episode_adapter(given, model, Retokenizer(tokenizer, frozenset(end_ids)) if wanted else None)

    def _report(self, peak_rss_mib: float) -> None:
        """What the run came to: table, picture, `summary.json`."""
        from agentlightning.report.run import summarise, write_report

        settings = self.config.trainer
        if self.run_dir is None or settings.val_only:
            return
        facts = {"checkpoint": self.checkpoint, "peak_rss_mib": peak_rss_mib}
        write_report(
            self.run_dir,
            {"seed": self.config.agentlightning.seed, **summarise(self.history), **facts},
            self.history,
            title=f"{self.run_dir.resolve().name}: {self.config.algorithm.adv_estimator}",
            quiet="console" not in settings.logger,
        )

    def _limited(
        self, train: Dataset[Any] | None, val: Dataset[Any] | None
    ) -> tuple[Dataset[Any] | None, Dataset[Any] | None]:
        """The datasets cut to `data.train_max_samples` and `data.val_max_samples`."""
        from agentlightning.verl.tasks import subset

        data = self.config.data
        return (
            None if train is None else subset(train, data.train_max_samples, seed=data.seed, shuffle=data.shuffle),
            None if val is None else subset(val, data.val_max_samples, seed=data.seed, shuffle=False),
        )

    def _sampling(self) -> dict[str, dict[str, Any]]:
        """What the gateway imposes on the agents' calls, by rollout mode."""
        rollout, longest = self.config.actor_rollout_ref.rollout, self.config.data.max_response_length
        val = rollout.val_kwargs
        return {
            "train": {
                "temperature": rollout.temperature if rollout.do_sample else 0.0,
                "top_p": rollout.top_p,
                "top_k": rollout.top_k if rollout.top_k > 0 else None,
                "max_tokens": longest,
            },
            "greedy": {"temperature": 0.0, "top_p": 1.0, "max_tokens": longest},
            "val": {
                "temperature": val.temperature if val.do_sample else 0.0,
                "top_p": val.top_p,
                "top_k": val.top_k if val.top_k > 0 else None,
                "max_tokens": longest,
            },
        }


def _trained(own: PolicyConfig, weights: Path) -> PolicyConfig:
    """The same policy with the weights of a checkpoint, an adapter merged into them."""
    actor = own.actor_rollout_ref
    model = actor.model.model_copy(update={"path": str(weights), "lora_rank": 0, "lora_adapter_path": None})
    return own.model_copy(update={"actor_rollout_ref": actor.model_copy(update={"model": model})})


def _name(rule: Any) -> str:
    """What a run's record calls a function that has no name in the registry."""
    function = getattr(rule, "func", rule)  # of a `functools.partial`
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    result: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            result |= _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result
