"""`${...}` in values: OmegaConf's interpolations, resolved over verl's defaults, ours and what the user set.

Called by `compose`. OmegaConf is imported only where there is something to resolve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from agentlightning.types import ConfigError

from .names import fields, verl_defaults

_EXPECTED = "__default"
"""Ends the name under which a default stands beside its key, where it resolves as it would in the key's place."""


def resolve(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with all interpolations replaced by what they point to.

    Raises:
        ConfigError: one points nowhere, or in a circle.
    """
    pending = {key: value for key, value in settings.items() if _is_interpolation(value)}
    return settings | _select(pending, settings) if pending else settings


def defaults_of(keys: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """verl's defaults of `keys`, given the settings; `None` for keys that verl has no default for."""
    defaults = {key: verl_defaults().get(key) for key in keys}
    pending = {key + _EXPECTED: value for key, value in defaults.items() if _is_interpolation(value)}
    found = _select(pending, {**settings, **pending}) if pending else {}
    return {key: found.get(key + _EXPECTED, value) for key, value in defaults.items()}


def nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings as a tree."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *path, leaf = key.split(".")
        node = tree
        for name in path:
            if not isinstance(node.get(name), dict):  # a default that a user replaces with keys of their own
                node[name] = {}
            node = node[name]
        node[leaf] = value
    return tree


def _is_interpolation(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_interpolation(item) for item in cast("list[Any]", value))
    return isinstance(value, str) and "${" in value


def _select(pending: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    except ImportError as error:
        raise ConfigError("values with `${...}` need OmegaConf: pip install 'agentlightning[verl]'") from error
    ours = {
        key: info.get_default(call_default_factory=True) for key, info in fields().items() if not info.is_required()
    }
    theirs = {key: value for key, value in verl_defaults().items() if value != {}}  # others may have keys below them
    tree = OmegaConf.create(nest({**theirs, **ours, **settings}), flags={"allow_objects": True})
    result: dict[str, Any] = {}
    for key, value in pending.items():
        try:
            found = OmegaConf.select(tree, key)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"`{key}` is {value!r}, which can't be resolved: {reason}") from error
        result[key] = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    return result
