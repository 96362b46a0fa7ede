"""`load_config`: from overrides to a checked, typed configuration. Called by `agl.VERL`, `main_ppo` and `agl config`.

A key is used (it has a field in `schema`), answered (a `Note` in the table at start) or refused. Never ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .checks import OVERLONG_LEN, device_notes, path_problems, problems, remarks, run_problems
from .differences import DIFFERENCES
from .errors import config_error, unknown, validation_lines
from .interpolation import defaults_of, nest, resolve
from .layers import (
    FOLLOWERS,
    fold_mappings,
    gather_named,
    given_values,
    is_below_mapping,
    merge,
    split_policies,
)
from .names import fields, is_known, verl_defaults
from .notes import Note
from .overrides import POLICIES, Settings, flatten
from .policies import foreign, policy_config
from .presets import preset_settings
from .rules import find_rule
from .schema import PolicyConfig, VerlConfig
from .unread import unread_notes

_ACTOR = "actor_rollout_ref.actor"
_STRICT = "(refused because `agentlightning.strict` is set)"
_ENGINE = "actor_rollout_ref.rollout.name"
_MODEL = "actor_rollout_ref.model.path"
_OTHER_ENGINES = ("vllm", "sglang", "trtllm", "hf")
_MAX_RESPONSE, _MAX_RESP_LEN = "data.max_response_length", "reward.reward_kwargs.max_resp_len"
_MINI_BATCH = f"{_ACTOR}.ppo_mini_batch_size"


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

    def check_machine(self) -> list[Note]:
        """Look at what the configuration needs of this machine; returns what depends on the device found.

        Raises:
            ConfigError: a path can't be used, or the device is not the one asked for and `agentlightning.strict` is
                set.
        """
        lines = list(path_problems(self.config))
        found = device_notes(self.given, self.config.device())
        if self.config.agentlightning.strict:
            lines += [f"{note} {_STRICT}" for note in found]
        if lines:
            raise config_error(lines)
        return found

    def print_notes(self, more: Sequence[Note] = ()) -> None:
        """Print the table at start; nothing where there is nothing to say.

        Args:
            more: Notes besides `notes`, such as what `entry_notes` found.

        Raises:
            ConfigError: see `check_machine`.
        """
        from agentlightning.report.table import print_notes

        notes = (*self.notes, *self.check_machine(), *more)
        print_notes([(note.key, note.value, note.instead, note.real) for note in notes])


@dataclass(slots=True)
class _View:
    """The configuration as one policy has it, or the common one."""

    values: dict[str, Any]
    config: VerlConfig | None = None
    notes: list[Note] = field(default_factory=list[Note])
    lines: list[str] = field(default_factory=list[str])


def load_config(
    overrides: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    base: Mapping[str, Any] | None = None,
    preset: str | Path | None = None,
) -> ResolvedConfig:
    """Compose and check a configuration.

    Args:
        overrides: A nested mapping as in verl's YAML, or command-line words in Hydra's grammar.
        base: Settings that everything else goes over, such as an example's own.
        preset: Name of a preset (`grpo`, `dapo`, ...; see `presets.preset_names`), or a YAML file. It goes over `base`
            and under `overrides`.

    Raises:
        ConfigError: unknown keys (with the nearest names), wrong types, values whose feature is not built,
            combinations that can't be; one line for each problem.
    """
    layers = gather_named([flatten(base), preset_settings(preset), flatten(overrides)])
    common, own = split_policies(layers)
    given = given_values(layers)
    if strangers := _strangers(common, own):
        raise config_error(strangers)
    views = {name: _policy_view(common, mine) for name, mine in own.items()}
    whole = _whole(common, own, views)
    config, lines = whole.config, [*whole.lines, *_policy_lines(views, whole.lines)]
    notes = [note for layer in common for note in _alias_notes(layer)] + whole.notes
    for name, view in views.items():
        notes += _named(name, view.notes)
    if config is not None:
        lines += run_problems(config)
        silent = _unread(whole, config, common, own, views)
        keys = {note.key for note in silent}
        notes = [note for note in notes if note.kind == "info" or note.key not in keys] + silent
        if config.agentlightning.strict:
            lines += [f"{note} {_STRICT}" for note in notes if note.kind == "replaced"]
    if lines or config is None:
        raise config_error(lines)
    return ResolvedConfig(config, notes, given)


def _strangers(common: Sequence[Settings], own: Mapping[str, Sequence[Settings]]) -> list[str]:
    """A line for each key that nobody knows, or that a policy can't have of its own."""
    lines = [unknown(key) for key in given_values(common) if not is_known(key)]
    for name, layers in own.items():
        lines += foreign(name, given_values(layers))
    return lines


def _policy_view(common: Sequence[Settings], own: Sequence[Settings]) -> _View:
    """The common settings with a policy's own over them."""
    mine = given_values(own)
    view = _view([*common, *(Settings({k: v for k, v in layer.values.items() if k != "trainable"}) for layer in own)])
    view.notes = [note for note in view.notes if note.key in mine]
    return view


def _whole(common: Sequence[Settings], own: Mapping[str, Sequence[Settings]], views: Mapping[str, _View]) -> _View:
    """The whole configuration, with the policies in it."""
    policies: dict[str, PolicyConfig] = {}
    for name, view in views.items():
        if view.config is not None:
            policies[name] = policy_config(view.config, given_values(own[name]))
    first = next(iter(policies.values()), None)
    model = [] if first is None else [Settings({_MODEL: first.actor_rollout_ref.model.path})]
    whole = _view([*model, *common], combined=not policies)
    if whole.config is not None and policies:
        ours = whole.config.agentlightning.model_copy(update={"policies": policies})
        whole.config = whole.config.model_copy(update={"agentlightning": ours})
    return whole


def _view(layers: Sequence[Settings], *, combined: bool = True) -> _View:
    """One configuration from its layers, with what there is to say about it.

    Args:
        layers: The settings.
        combined: Whether it is what a policy runs by, so that combinations that can't be are problems.
    """
    given = given_values(layers)
    settings = resolve(merge(layers))
    view = _View(settings, notes=_replace_engine(settings))
    view.lines += _answer(settings, given, view.notes)
    view.config = _build(fold_mappings(settings), view.lines)
    if view.config is not None:
        view.lines += problems(view.config) if combined else []
        view.notes += remarks(view.config)
    return view


def _unread(
    whole: _View,
    config: VerlConfig,
    common: Sequence[Settings],
    own: Mapping[str, Sequence[Settings]],
    views: Mapping[str, _View],
) -> list[Note]:
    """Notes on keys that nothing reads: common ones that no policy reads, and each policy's own."""
    built = {name: view.config for name, view in views.items() if view.config is not None}
    notes = list(unread_notes(list(built.values()) or [config], given_values(common), whole.values))
    for name, view in built.items():
        notes += _named(name, unread_notes([view], given_values(own[name]), views[name].values))
    return notes


def _named(policy: str, notes: Iterable[Note]) -> list[Note]:
    """Notes on a policy's own keys, under their full names."""
    return [replace(note, key=f"{POLICIES}.{policy}.{note.key}") for note in notes]


def _policy_lines(views: Mapping[str, _View], said: Sequence[str]) -> list[str]:
    """What is wrong with the policies: once where it is wrong with all of them, else by name."""
    found = [view.lines for view in views.values()]
    everywhere = [line for line in (found[0] if len(found) > 1 else []) if all(line in lines for lines in found)]
    return [line for line in everywhere if line not in said] + [
        f"policy `{name}`: {line}"
        for name, view in views.items()
        for line in view.lines
        if line not in said and line not in everywhere
    ]


def _alias_notes(layer: Settings) -> list[Note]:
    return [
        Note(written, layer.values[key], "info", f"read as `{key}`")
        for key, written in layer.spelling.items()
        if written != key and key in layer.values
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
    asked = (key for key in given if key not in fields() and not is_below_mapping(key))
    ours = {difference.key: difference.ours for difference in DIFFERENCES}
    for key, verls in defaults_of(asked, settings).items():
        value, rule, default = settings[key], find_rule(key), ours.get(key, verls)
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
    for key, leader in FOLLOWERS.items():
        if leader in values:
            values.setdefault(key, values[leader])
    longest = values.get(_MAX_RESP_LEN) or values.get(_MAX_RESPONSE, verl_defaults()[_MAX_RESPONSE])
    if isinstance(longest, int):
        values.setdefault(OVERLONG_LEN, max(longest // 5, 1))
    try:
        return VerlConfig.model_validate(nest({"actor_rollout_ref.model": {}} | values))
    except ValidationError as error:
        lines += validation_lines(error)
        return None
