"""`load_config`: from overrides to a checked, typed configuration. Called by `agl.VERL` and `main_ppo`.

A key is used (it has a field in `schema`), answered (a `Note` in the table at start) or refused. Never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from .checks import device_notes, problems, remarks
from .credit import gather_credit
from .errors import config_error, unknown, validation_lines
from .interpolation import defaults_of, nest, resolve
from .names import fields, is_known, verl_defaults
from .notes import Note
from .overrides import Settings, flatten
from .rules import find_rule
from .schema import VerlConfig

_ACTOR = "actor_rollout_ref.actor"
_STRICT = "(refused because `agentlightning.strict` is set)"
_ENGINE = "actor_rollout_ref.rollout.name"
_OTHER_ENGINES = ("vllm", "sglang", "trtllm", "hf")
_MINI_BATCH = f"{_ACTOR}.ppo_mini_batch_size"
_SEEDS = ("data.seed", "actor_rollout_ref.rollout.seed", f"{_ACTOR}.data_loader_seed")


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """What a run starts from.

    Args:
        config: The typed configuration; every value is one that is possible here.
        notes: The table at start.
        given: What the user set, flat, by full name and before anything was filled in.
    """

    config: VerlConfig
    notes: list[Note]
    given: dict[str, Any]

    def print_notes(self) -> None:
        """Print the table at start, with what depends on the device found; nothing where there is nothing to say.

        Raises:
            ConfigError: the device is not the one asked for, and `agentlightning.strict` is set.
        """
        from agentlightning.report.table import print_notes

        found = device_notes(self.given, self.config.device())
        if found and self.config.agentlightning.strict:
            raise config_error([f"{note} {_STRICT}" for note in found])
        print_notes([(note.key, note.value, note.instead, note.real) for note in (*self.notes, *found)])


def load_config(
    overrides: Mapping[str, Any] | Sequence[str] | None = None, *, base: Mapping[str, Any] | None = None
) -> ResolvedConfig:
    """Compose and check a configuration.

    Args:
        overrides: A nested mapping as in verl's YAML, or command-line words in Hydra's grammar.
        base: Settings that `overrides` go over, such as an example's own.

    Raises:
        ConfigError: unknown keys (with the nearest names), wrong types, values whose feature is not built,
            combinations that can't be; one line for each problem.
    """
    layers = gather_credit([flatten(base), flatten(overrides)])
    given = {key: value for layer in layers for key, value in layer.values.items()}
    if strangers := [key for key in given if not is_known(key)]:
        raise config_error([unknown(key) for key in strangers])
    settings = resolve({key: value for layer in layers for key, value in _expand(layer.values).items()})
    notes = [note for layer in layers for note in _alias_notes(layer)]
    notes += _replace_engine(settings)
    lines = _answer(settings, given, notes)
    config = _build(settings, lines)
    if config is not None:
        lines += problems(config)
        notes += remarks(config, given)
        if config.agentlightning.strict:
            lines += [f"{note} {_STRICT}" for note in notes if note.kind == "replaced"]
    if lines or config is None:
        raise config_error(lines)
    return ResolvedConfig(config, notes, given)


def _expand(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what a setting implies: one clip ratio for both bounds, one seed for all."""
    followers: dict[str, Sequence[str]] = {
        f"{_ACTOR}.clip_ratio": (f"{_ACTOR}.clip_ratio_low", f"{_ACTOR}.clip_ratio_high"),
        "agentlightning.seed": _SEEDS,
    }
    implied: dict[str, Any] = {}
    left_open: set[str] = set()
    for leader, names in followers.items():
        if leader in values:
            implied |= dict.fromkeys(names, values[leader])
        left_open |= {name for name in names if name in values and values[name] is None}
    return implied | {key: value for key, value in values.items() if key not in left_open}


def _alias_notes(layer: Settings) -> list[Note]:
    return [
        Note(written, layer.values[key], "info", f"read as `{key}`")
        for key, written in layer.spelling.items()
        if written != key
    ]


def _replace_engine(settings: dict[str, Any]) -> list[Note]:
    if settings.get(_ENGINE) not in _OTHER_ENGINES:
        return []
    name, settings[_ENGINE] = settings[_ENGINE], "native"
    instead = "the native engine runs, on the weights in training"
    return [Note(_ENGINE, name, "replaced", instead, "other engines, as servers, are not built yet")]


def _answer(settings: Mapping[str, Any], given: Mapping[str, Any], notes: list[Note]) -> list[str]:
    """Ask the rules about keys without a field. Adds to `notes`, returns the lines of those refused."""
    refused: list[str] = []
    for key, default in defaults_of((key for key in given if key not in fields()), settings).items():
        value, rule = settings[key], find_rule(key)
        if _same(value, default) or any(_same(value, harmless) for harmless in rule.here):
            continue
        if rule.kind == "refused":
            refused.append(f"`{key}` is {value!r}: {rule.instead}; {rule.real}")
        else:
            notes.append(Note(key, value, rule.kind, rule.instead, rule.real))
    return refused


def _same(value: Any, other: Any) -> bool:
    """Equality that tells True from 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _build(settings: Mapping[str, Any], lines: list[str]) -> VerlConfig | None:
    """The typed configuration, or `None` and a line for each wrong value."""
    values = {key: value for key, value in settings.items() if key in fields()}
    batch = settings.get("data.train_batch_size", verl_defaults()["data.train_batch_size"])
    if isinstance(batch, int):
        values.setdefault(_MINI_BATCH, min(verl_defaults()[_MINI_BATCH], max(batch, 1)))
    try:
        return VerlConfig.model_validate(nest({"actor_rollout_ref.model": {}} | values))
    except ValidationError as error:
        lines += validation_lines(error)
        return None
