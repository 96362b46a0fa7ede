"""`APO`: makes prompts better by what an LLM says of their rollouts. Needs an endpoint and no GPU.

Called by `Trainer.fit`; the loop is `loop`, what it is made of is `plan`. `openai` is imported when the run begins.
"""

from __future__ import annotations

import importlib.util
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from agentlightning.adapter import TraceToMessages
from agentlightning.algorithm.base import Algorithm
from agentlightning.types import AgentLightningError, ConfigError, Dataset, DatasetError, NamedResources, PromptTemplate
from agentlightning.utils.seeds import stable_seed

from .budget import Budget, BudgetSpent, Ledger
from .candidate import Candidate
from .gateway import through_gateway
from .loop import optimise
from .models import Models
from .outcome import Split
from .plan import Plan, plan_of
from .progress import Progress
from .report import HeldOut, Report, facts_of
from .state import State
from .strategies import Critique, Spec
from .trials import Trials
from .writer import Writer

logger = logging.getLogger(__name__)


class APO(Algorithm):
    """Prompt optimisation.

    Without `preset` it is the documented loop: a critic reads rollouts of a prompt and says what is wrong (the textual
    gradient), an editor rewrites the prompt, and a beam search keeps the best (ProTeGi, arXiv 2305.03495). `protegi`,
    `gepa` and `auto` are other combinations of the same strategies, `docs/apo.md` says when to use which.

    Args:
        async_openai_client: `openai.AsyncOpenAI` or `openai.OpenAI`, for critic and editor. Default: a client that is
            configured by `OPENAI_API_KEY` and `OPENAI_BASE_URL`.
        client: The same, under the name that is easier to remember.
        preset: `protegi`, `gepa` or `auto`.
        gradient_model: Model of the critic, and of reflection.
        apply_edit_model: Model of the editor.
        diversity_temperature: Their temperature; `None` leaves it to the endpoint, as for a model that refuses it.
        gradient_batch_size: Train rollouts that a critic sees.
        val_batch_size: Validation tasks by which a round of the documented loop ranks candidates.
        beam_width: Prompts that are kept.
        branch_factor: New prompts from each of them in a round.
        beam_rounds: Rounds. `Trainer(max_iterations=...)` replaces it.
        rollout_batch_timeout: Seconds after which rollouts that have not ended are cancelled and count as failed.
        run_initial_validation: Try the start on all validation tasks first.
        gradient_prompt_files: Jinja files to ask the critic with, instead of ours; several: one is drawn each time.
        apply_edit_prompt_files: The same for the editor.
        prompts: Names of the prompts to tune, among the initial resources. Default: all `PromptTemplate`s.
        selector, proposer, gate, evaluator, stopper: Strategies instead of the preset's: a name, a mapping of `name`
            and options, a mapping of options that replace single ones, or an object of your own.
        budget: What the run may cost: a `Budget`, its fields as a mapping, or a number of rollouts.
        test_dataset: Tasks to report on: start and best are compared on them at the end, nothing is chosen by them.
        seed: The same seed and the same replies give the same run, whatever the number of runners.
        concurrency: Requests to critic and editor at a time.
        max_answer_tokens: The longest answer of critic and editor. Default: the endpoint's own limit, or 8192 where the
            budget has `tokens` or `cost`: so many are reserved for each request until it is answered.

    The parameters of the documented loop that are `None` here have the values of Agent-Lightning 0.3 (`plan.PRESETS`),
    or those of the preset.

    Raises:
        ConfigError: a value that can't be used.

    After `run`: `get_best_prompt()`, `get_resource(name)`, `held_out`, `state`, and the files in `run_dir/apo`.
    """

    def __init__(
        self,
        async_openai_client: Any = None,
        *,
        client: Any = None,
        preset: str | None = None,
        gradient_model: str = "gpt-5-mini",
        apply_edit_model: str = "gpt-4.1-mini",
        diversity_temperature: float | None = 1.0,
        gradient_batch_size: int | None = None,
        val_batch_size: int | None = None,
        beam_width: int | None = None,
        branch_factor: int | None = None,
        beam_rounds: int | None = None,
        rollout_batch_timeout: float = 3600.0,
        run_initial_validation: bool = True,
        gradient_prompt_files: Sequence[str | Path] | None = None,
        apply_edit_prompt_files: Sequence[str | Path] | None = None,
        prompts: Sequence[str] | None = None,
        selector: Spec | None = None,
        proposer: Spec | None = None,
        gate: Spec | None = None,
        evaluator: Spec | None = None,
        stopper: Spec | None = None,
        budget: Budget | Mapping[str, Any] | int | None = None,
        test_dataset: Dataset[Any] | None = None,
        seed: int = 42,
        concurrency: int = 16,
        max_answer_tokens: int | None = None,
        _poml_trace: bool = False,
    ) -> None:
        if client is not None and async_openai_client is not None:
            raise ConfigError("`client` and `async_openai_client` are the same thing; give one of them")
        self.client = client if client is not None else async_openai_client
        self.preset = preset or "documented"
        numbers = {
            "gradient_batch_size": gradient_batch_size,
            "val_batch_size": val_batch_size,
            "beam_width": beam_width,
            "branch_factor": branch_factor,
            "beam_rounds": beam_rounds,
            "concurrency": concurrency,
            "max_answer_tokens": max_answer_tokens,
        }
        for name, value in numbers.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"`{name}` must be a whole number from 1, not {value!r}")
        if not rollout_batch_timeout > 0:
            raise ConfigError(f"`rollout_batch_timeout` must be more than 0 seconds, not {rollout_batch_timeout!r}")
        self.gradient_model = gradient_model
        self.apply_edit_model = apply_edit_model
        self.diversity_temperature = diversity_temperature
        self.rollout_batch_timeout = rollout_batch_timeout
        self.prompts = None if prompts is None else list(prompts)
        self.test_dataset = test_dataset
        self.seed = seed
        self.concurrency = concurrency
        self.max_answer_tokens = max_answer_tokens
        self.budget = _budget(budget)
        self._changes: dict[str, Any] = _changes(
            {
                "selector": (selector, {"width": beam_width, "branch_factor": branch_factor}),
                "proposer": (proposer, {"batch_size": gradient_batch_size}),
                "gate": (gate, {}),
                "evaluator": (evaluator, {"val_batch_size": val_batch_size}),
                "stopper": (stopper, {}),
            }
        )
        if beam_rounds is not None:
            self._changes["rounds"] = beam_rounds
        if not run_initial_validation:
            self._changes["validate_start"] = False
        self._models = Models(
            gradient_model,
            apply_edit_model,
            gradient_prompt_files=gradient_prompt_files,
            apply_edit_prompt_files=apply_edit_prompt_files,
        )
        self.plan = plan_of(self.preset, models=self._models, **self._changes)
        self.state: State | None = None
        """What the last `run` knew: candidates, scores, rounds, spending."""
        self.held_out: HeldOut | None = None
        """Start and best on the test tasks; `None` without any."""
        self.reason = ""
        """Why it ended."""

    # -- what a run comes to ----------------------------------------------------------------------------------------

    def get_best_prompt(self) -> PromptTemplate:
        """The best prompt so far; of several that are tuned, the first.

        Raises:
            ValueError: `run` has not begun.
        """
        return next(iter(self._best().values()))

    def get_resource(self, name: str) -> Any:
        """A resource by its name: a tuned prompt as it is best so far, any other as it was given.

        Raises:
            ValueError: `run` has not begun.
            KeyError: there is none of that name.
        """
        found = {**(self.get_initial_resources() or {}), **self._best()}
        if name not in found:
            raise KeyError(f"there is no resource `{name}`; there are {', '.join(f'`{each}`' for each in found)}")
        return found[name]

    def tuned_resources(self) -> NamedResources:
        return dict(self._best())

    def get_seed_prompt_template(self) -> tuple[str, PromptTemplate]:
        """Name and text of the prompt to begin with; of several that are tuned, the first."""
        return next(iter(self._start(self.get_initial_resources()).items()))

    def get_adapter(self) -> TraceToMessages:
        """The adapter that reads the messages: the trainer's, if it was given a `TraceToMessages`."""
        return self._adapter if isinstance(self._adapter, TraceToMessages) else TraceToMessages()

    def _best(self) -> dict[str, PromptTemplate]:
        if self.state is None:
            raise ValueError("there is no best prompt yet: run the algorithm first, through `Trainer.fit`")
        best = self.state.best or self.state.candidates[0]
        return {name: each.model_copy(update={"template": best.texts[name]}) for name, each in self.state.start.items()}

    # -- the run ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse what can't work before anything is paid."""
        if importlib.util.find_spec("openai") is None:
            raise ConfigError("`APO` needs openai: pip install 'agentlightning[apo]'")
        if self.budget.cost is not None and isinstance(self.plan.proposer, Critique):
            for name in (self.gradient_model, self.apply_edit_model):
                if self.budget.price(name) is None:
                    raise ConfigError(f"`cost` is a limit but `prices` has none for model {name!r}; add one")
        report = 2 * len(self.test_dataset or ())
        if self.budget.rollouts is not None and self.budget.rollouts <= report:
            raise ConfigError(
                f"`budget` has {self.budget.rollouts} rollouts and the report on `test_dataset` takes {report}: "
                "none are left to tune with; raise the budget or give fewer test tasks"
            )

    def check_resume(self, recorded: Mapping[str, Any]) -> None:
        """A run with other settings takes other decisions and pays anew. The budget may change."""
        now = self.describe()
        for key in ("preset", "seed", "plan", "models"):
            if recorded and recorded.get(key) != now[key]:
                raise ConfigError(
                    f"the run was begun with `{key}` {recorded.get(key)!r}, and now it is {now[key]!r}; "
                    "resume with the same settings, or start a new run"
                )

    def describe(self) -> Mapping[str, Any]:
        return {
            "algorithm": "APO",
            "preset": self.preset,
            "seed": self.seed,
            "plan": {name: _shown(change) for name, change in self._changes.items()},
            "models": self._models.describe(),
            "budget": {field.name: getattr(self.budget, field.name) for field in fields(self.budget)},
        }

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Tune the prompts.

        Raises:
            ConfigError: there is no prompt to tune, or the budget does not pay for the report.
            DatasetError: there are no tasks.
            AgentLightningError: critic and editor can't be asked. What was found so far is in `run_dir/apo`.
        """
        datasets = self._datasets(train_dataset, val_dataset)
        async with through_gateway(self.get_llm_proxy(), self.get_initial_resources() or {}) as resources:
            await self._tune(resources, datasets)

    async def _tune(self, resources: NamedResources, datasets: Mapping[Split, Dataset[Any]]) -> None:
        start = self._start(resources)
        plan, ledger, store = self._plan(), Ledger(self.budget), self.get_store()
        ledger.hold(2 * len(datasets.get("test", ())))
        scope = title = self.run_dir.resolve().name if self.run_dir is not None else ""
        report = None if self.run_dir is None else Report(self.run_dir / "apo", self.describe(), title)
        self._check_start(resources, start, None if report is None else report.start_prompts())
        with Progress(plan.rounds) as progress:
            trials = Trials(
                store,
                resources,
                datasets,
                ledger,
                seed=self.seed,
                scope=scope,
                batch_timeout=self.rollout_batch_timeout,
                adapter=self.get_adapter(),
                on_progress=progress.rollouts,
            )
            writer = Writer(
                self._client(),
                store,
                ledger,
                seed=self.seed,
                temperature=self.diversity_temperature,
                max_tokens=self.max_answer_tokens,
                concurrency=self.concurrency,
                scope=scope,
            )
            await trials.load()
            await writer.load()
            first = Candidate("v0", {name: each.template for name, each in start.items()})
            self.state = State(start, trials, writer, ledger, self.seed, [first])

            def on_round(state: State) -> None:
                progress.round_done(state)
                if report is not None:
                    report.update(state)

            try:
                self.reason = await optimise(self.state, plan, on_round=on_round)
                await self._measure(self.state)
            except AgentLightningError as error:
                if report is not None:
                    report.finish(self.state, f"error: {error}")
                raise
            finally:
                await writer.close()
            facts = facts_of(self.state, self.describe(), self.reason)
            if report is not None:
                facts = report.finish(self.state, self.reason)
            self.held_out = facts.held_out
            progress.finished(facts)

    async def _measure(self, state: State) -> None:
        """Run start and best on the test tasks, which no choice was made on."""
        state.ledger.release()
        best = state.best or state.candidates[0]
        try:
            await state.trials.run(
                [(each, place) for each in (state.candidates[0], best) for place in state.all_places("test")]
            )
        except BudgetSpent as spent:
            logger.warning("the result is not measured on the test tasks: %s", spent)

    def _plan(self) -> Plan:
        if self.max_iterations is None:
            return self.plan
        return plan_of(self.preset, models=self._models, **{**self._changes, "rounds": self.max_iterations})

    def _client(self) -> Any:
        if self.client is not None:
            return self.client
        import openai

        try:
            return openai.AsyncOpenAI()
        except openai.OpenAIError as error:
            raise ConfigError(f"there is no `client` for critic and editor, and {error}") from error

    def _start(self, resources: NamedResources | None) -> dict[str, PromptTemplate]:
        """The prompts to tune, by name."""
        found = {name: each for name, each in (resources or {}).items() if isinstance(each, PromptTemplate)}
        if not found:
            raise ConfigError(
                "there is no prompt to tune: give a `PromptTemplate` by `apo.set_initial_resources({'prompt': ...})` "
                "or `Trainer(initial_resources=...)`"
            )
        for name in self.prompts or ():
            if name not in found:
                raise ConfigError(f"`prompts` names `{name}`, and the prompts are {', '.join(found)}")
        return {name: each for name, each in found.items() if self.prompts is None or name in self.prompts}

    def _check_start(
        self, resources: NamedResources, start: Mapping[str, PromptTemplate], begun: Mapping[str, str] | None
    ) -> None:
        for name, each in resources.items():
            if isinstance(each, PromptTemplate) and each.engine == "poml" and importlib.util.find_spec("poml") is None:
                raise ConfigError(f"`engine` of prompt `{name}` is 'poml': pip install 'agentlightning[poml]'")
        if begun is not None and begun != {name: each.template for name, each in start.items()}:
            raise ConfigError(
                "the run was begun with other prompts than these; resume with the same, or start a new run"
            )

    def _datasets(self, train: Dataset[Any] | None, val: Dataset[Any] | None) -> dict[Split, Dataset[Any]]:
        if train is None:
            raise DatasetError("there is no `train_dataset`: prompts are made better by what went wrong on its tasks")
        if val is None:
            tasks = [train[i] for i in range(len(train))]
            if len(tasks) < 2:
                raise DatasetError(
                    "there is no `val_dataset`, and a `train_dataset` of one task can't be divided; give one"
                )
            random.Random(stable_seed(self.seed, "val")).shuffle(tasks)
            train, val = tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :]
            logger.warning("there is no `val_dataset`: %d of the train tasks are taken for it", len(val))
        found: dict[Split, Dataset[Any]] = {"train": train, "val": val}
        return found if self.test_dataset is None else {**found, "test": self.test_dataset}


def _budget(given: Budget | Mapping[str, Any] | int | None) -> Budget:
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - {field.name for field in fields(Budget)})
        if unknown:
            known = ", ".join(f"`{field.name}`" for field in fields(Budget))
            raise ConfigError(f"`budget` has no `{unknown[0]}`; it has {known}")
        return Budget(**given)
    if given is None or isinstance(given, int):
        return Budget(rollouts=given)
    return given


def _changes(given: Mapping[str, tuple[Spec | None, Mapping[str, Any]]]) -> dict[str, Any]:
    """What differs from the preset: a strategy of another name, and single options, which must not contradict it."""
    changes: dict[str, Any] = {}
    for kind, (spec, options) in given.items():
        options = {name: value for name, value in options.items() if value is not None}
        if spec is None:
            if options:
                changes[kind] = options
        elif isinstance(spec, Mapping):
            changes[kind] = {**options, **spec}
        elif isinstance(spec, str):
            changes[kind] = {**options, "name": spec}
        else:
            changes[kind] = spec
    return changes


def _shown(change: Any) -> Any:
    """As it stands in the run's record."""
    if isinstance(change, Mapping | str | int | float | list | None):
        return change
    return f"{type(change).__module__}.{type(change).__qualname__}"
