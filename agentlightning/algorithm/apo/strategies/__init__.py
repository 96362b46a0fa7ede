"""Strategies by name. `plan` builds them from names and options, as users and presets give them.

Each kind has its table. A strategy is given as a name, as a mapping of its `name` and options, or as an object of the
user's own with the methods that `base` lists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agentlightning.types import ConfigError

from .base import Evaluator, Gate, Job, Proposer, Rank, Selector, Stopper
from .evaluators.full import Full
from .evaluators.halving import Halving
from .evaluators.posterior import Posterior
from .evaluators.racing import Racing
from .evaluators.shared_batch import SharedBatch
from .evaluators.ucb import UCB
from .gates.everyone import Everyone
from .gates.minibatch import Minibatch, PairedTest
from .proposers.critique import Critique
from .proposers.history import History
from .proposers.merge import Merge
from .proposers.mixed import Mixed
from .proposers.paraphrase import Paraphrase
from .proposers.reflect import Reflect
from .selectors.beam import Beam
from .selectors.best import Best, EpsilonGreedy
from .selectors.pareto import Pareto
from .stoppers import AnyOf, LittleRoom, Never, NoImprovement, NothingNew, Target

Kind = Literal["selector", "proposer", "gate", "evaluator", "stopper"]
Spec = str | Mapping[str, Any] | object
"""A name; `{"name": ..., option: value}`; or a strategy."""

STRATEGIES: dict[Kind, dict[str, Callable[..., Any]]] = {
    "selector": {"beam": Beam, "best": Best, "epsilon_greedy": EpsilonGreedy, "pareto": Pareto},
    "proposer": {
        "critique": Critique,
        "reflect": Reflect,
        "paraphrase": Paraphrase,
        "merge": Merge,
        "history": History,
        "mixed": Mixed,
    },
    "gate": {"none": Everyone, "minibatch": Minibatch, "paired_test": PairedTest},
    "evaluator": {
        "full": Full,
        "shared_batch": SharedBatch,
        "ucb": UCB,
        "halving": Halving,
        "racing": Racing,
        "posterior": Posterior,
    },
    "stopper": {
        "never": Never,
        "no_improvement": NoImprovement,
        "nothing_new": NothingNew,
        "target": Target,
        "little_room": LittleRoom,
    },
}


def build(kind: Kind, spec: Spec, **given: Any) -> Any:
    """The strategy that `spec` means.

    Args:
        kind: Which table.
        spec: As above. Several stoppers may be given as a list: the first that has a reason ends the run.
        given: What strategies of this kind get beside the user's options.

    Raises:
        ConfigError: there is no such name or option, or a value is of no use.
    """
    if kind == "stopper" and isinstance(spec, Sequence) and not isinstance(spec, str):
        return AnyOf([build(kind, each) for each in spec])
    if not isinstance(spec, str | Mapping):
        return spec
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", None)
    make = STRATEGIES[kind].get(str(name))
    if make is None:
        raise ConfigError(f"`{kind}` {name!r} is unknown; there are {_list(STRATEGIES[kind])}")
    known = [each for each in inspect.signature(make).parameters if each not in given]
    for option in options:
        if option not in known:
            raise ConfigError(f"`{kind}` {name!r} has no option `{option}`; it has {_list(known) or 'none'}")
    return make(**given, **options)


def _list(names: Mapping[str, object] | Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


__all__ = [
    "STRATEGIES",
    "UCB",
    "AnyOf",
    "Beam",
    "Best",
    "Critique",
    "EpsilonGreedy",
    "Evaluator",
    "Everyone",
    "Full",
    "Gate",
    "Halving",
    "History",
    "Job",
    "Kind",
    "LittleRoom",
    "Merge",
    "Minibatch",
    "Mixed",
    "Never",
    "NoImprovement",
    "PairedTest",
    "Paraphrase",
    "Pareto",
    "Posterior",
    "Proposer",
    "Racing",
    "Rank",
    "Reflect",
    "Selector",
    "SharedBatch",
    "Spec",
    "Stopper",
    "Target",
    "build",
]
