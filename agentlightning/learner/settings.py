"""Configurations as the maths of `learner/` reads them: a mapping whose items are attributes too.

Called by `advantages` and `losses`, whose public functions take a dict, an OmegaConf node, a dataclass or any object
with attributes for their `config`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any] | object
"""A mapping, or an object with the keys as attributes."""


def entries(config: Config | None) -> dict[str, Any]:
    """The keys and values of a configuration; none of `None`.

    Raises:
        TypeError: it is neither a mapping nor an object with attributes.
    """
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return {str(name): config[name] for name in config}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if hasattr(config, "__dict__") and not isinstance(config, type):
        return dict(vars(config))
    raise TypeError(f"a configuration is a {type(config).__name__}; give a mapping or an object with attributes")


class Settings(dict[str, Any]):
    """A mapping whose items are attributes too, so that functions written for verl's config objects read it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no `{name}`; use `config.get({name!r}, default)`") from None
