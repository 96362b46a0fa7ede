"""`Plan`: the strategies of a run, and the presets as data. `APO` makes one, `loop` carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from agentlightning.types import ConfigError

from .batches import Share
from .models import Models
from .strategies import Evaluator, Gate, Proposer, Selector, Stopper, build

PRESETS: dict[str, dict[str, Any]] = {
    # `APO()`: textual gradient, edit, beam search, with the defaults of Agent-Lightning 0.3.
    "documented": {
        "selector": {"name": "beam", "width": 4, "branch_factor": 4},
        "proposer": {"name": "critique", "batch_size": 4},
        "gate": "none",
        "evaluator": {"name": "shared_batch", "val_batch_size": 16},
        "stopper": "never",
        "rounds": 3,
        "validate_start": True,
        "share": "job",
    },
    # ProTeGi (arXiv 2305.03495): a big minibatch for all parents, critics see four errors each, eight children of a
    # parent, two of three paraphrases of the third; UCB. The paper's pulls have 32
    # tasks drawn with replacement; here no task is paid twice, so they are smaller.
    "protegi": {
        "selector": {"name": "beam", "width": 4, "branch_factor": 8},
        "proposer": {"name": "critique", "batch_size": 64, "shown": 4, "only_below": 1.0, "paraphrases": 2},
        "gate": "none",
        "evaluator": {"name": "ucb", "c": 1.0, "pulls": 8, "arms": 8, "sample": 8},
        "stopper": "never",
        "rounds": 6,
        "validate_start": True,
        "share": "round",
    },
    # GEPA (arXiv 2507.19457): one child at a time of a parent from the Pareto front, let through by three train tasks.
    "gepa": {
        "selector": {"name": "pareto", "children": 1},
        "proposer": {"name": "reflect", "batch_size": 3, "perfect": 1.0},
        "gate": {"name": "minibatch", "strict": True, "perfect": 1.0},
        "evaluator": "full",
        "stopper": {"name": "no_improvement", "rounds": 100},
        "rounds": 1000,
        "validate_start": True,
        "share": "job",
    },
    # Hill climbing in small steps: each child on a handful of validation tasks, and a model of all rewards that says
    # who leads. The numbers were chosen on the tuning families of benchmarks/apo.
    "auto": {
        "selector": {"name": "best", "children": 4},
        "proposer": {"name": "critique", "batch_size": 4},
        "gate": "none",
        "evaluator": {"name": "posterior", "first": 4, "prior": 80.0, "finalists": 3},
        "stopper": [
            {"name": "little_room", "rollouts": 8},
            {"name": "no_improvement", "rounds": 25},
            {"name": "nothing_new", "rounds": 5},
        ],
        "rounds": 200,
        "validate_start": False,
        "share": "parent",
    },
}
"""Name -> what `plan_of` builds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run goes."""

    selector: Selector
    proposer: Proposer
    gate: Gate
    evaluator: Evaluator
    stopper: Stopper
    rounds: int
    """At most."""
    validate_start: bool = True
    """Whether the start is tried on all validation tasks first."""
    share: Share = "job"
    """Who is tried on one and the same train batch."""

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"`rounds` must be a whole number from 0, not {self.rounds!r}")
        if self.share not in get_args(Share):
            raise ConfigError(f"`share` must be one of {get_args(Share)}, not {self.share!r}")


def plan_of(preset: str = "documented", models: Models | None = None, **changes: Any) -> Plan:
    """A preset with changes.

    Args:
        preset: One of `PRESETS`.
        models: Critic and editor.
        changes: Fields of `Plan`. For a strategy: a name, a mapping with `name` and options, an object, or a mapping
            without `name`, whose options replace single ones of the preset's strategy.

    Raises:
        ConfigError: there is no such preset, field, strategy or option.
    """
    if preset not in PRESETS:
        raise ConfigError(f"`preset` {preset!r} is unknown; there are {', '.join(map(repr, PRESETS))}")
    fields = dict(PRESETS[preset])
    for name, change in changes.items():
        if name not in fields:
            raise ConfigError(f"a plan has no `{name}`; it has {', '.join(f'`{field}`' for field in fields)}")
        fields[name] = _changed(fields[name], change)
    evaluator = build("evaluator", fields.pop("evaluator"))
    return Plan(
        selector=build("selector", fields.pop("selector"), rank=evaluator.rank),
        proposer=build("proposer", fields.pop("proposer"), models=models or Models()),
        gate=build("gate", fields.pop("gate")),
        evaluator=evaluator,
        stopper=build("stopper", fields.pop("stopper")),
        **fields,
    )


def _changed(old: Any, new: Any) -> Any:
    if not isinstance(new, Mapping) or "name" in new:
        return new
    if isinstance(old, str):
        old = {"name": old}
    if not isinstance(old, Mapping):
        raise ConfigError(f"options {dict(new)} of several strategies at once; give the whole list anew")
    return {**old, **new}
