"""What a component of the trainer may be given as, and how to make the component of it. Called by `Trainer` and users.

A spec is an instance, a class, a function without arguments, a dotted path such as `my_agents.tracing.MyTracer`, a key
of a registry (`"cs"`), or a mapping with a `type` (or `name`) and arguments. `None` stands for the default. Follows
Agent-Lightning 0.3.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

from agentlightning.types import ConfigError

T = TypeVar("T")
OptionalDefaults = Mapping[str, Any]
"""Arguments that a component gets if it takes them: a value, or a function without arguments that gives it."""
ComponentSpec: TypeAlias = T | type[T] | Callable[[], T] | str | dict[str, Any] | None
"""What a component may be given as."""
Registry = Mapping[str, "type[Any] | str"]
"""Short name -> class or dotted path."""


def build_component(
    spec: Any,
    *,
    expected_type: type[T],
    spec_name: str,
    default_factory: Callable[[], T] | None = None,
    allow_none: bool = False,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[Any] | None = None,
    type_error_fmt: str | None = None,
    invalid_spec_error_fmt: str | None = None,
    registry: Registry | None = None,
) -> T | None:
    """The component that `spec` stands for.

    Args:
        spec: See the module.
        expected_type: What the component must be an instance of.
        spec_name: The argument's name, for messages.
        default_factory: Makes the component for `None`.
        allow_none: Whether `None` without a `default_factory` is fine.
        optional_defaults: Arguments that a class gets if it takes them and they are not given.
        dict_requires_type: Whether a mapping needs a `type`.
        dict_default_cls: The class of a mapping without one.
        type_error_fmt: Message for a component of another type, with `{type_name}` and `{expected_type}`.
        invalid_spec_error_fmt: Message for what is no spec, with `{actual_type}` and `{expected_type}`.
        registry: Short names.

    Raises:
        ConfigError: the spec can't be understood or imported. (It is a `ValueError`.)
        TypeError: the component is of another type, or takes other arguments.
    """
    if spec is None:
        if default_factory is None and not allow_none:
            raise ConfigError(f"`{spec_name}` is None; give a {expected_type.__name__}")
        return None if default_factory is None else default_factory()
    if isinstance(spec, expected_type):
        return spec
    if isinstance(spec, (str, Mapping)):
        built = instantiate_from_spec(
            cast(Any, spec),
            spec_name=spec_name,
            optional_defaults=optional_defaults,
            dict_requires_type=dict_requires_type,
            dict_default_cls=dict_default_cls,
            registry=registry,
        )
    elif inspect.isclass(spec):
        built = instantiate_component(spec, None, optional_defaults)
    elif callable(spec):
        built = spec()
    else:
        text = invalid_spec_error_fmt or f"`{spec_name}` is a {{actual_type}}; give a {{expected_type}}"
        raise ConfigError(text.format(actual_type=type(spec).__name__, expected_type=expected_type.__name__))
    if not isinstance(built, expected_type):
        text = type_error_fmt or f"`{spec_name}` gave a {{type_name}}; it must be a {{expected_type}}"
        raise TypeError(text.format(type_name=type(built).__name__, expected_type=expected_type.__name__))
    return built


def instantiate_from_spec(
    spec: str | Mapping[str, Any],
    *,
    spec_name: str,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[Any] | None = None,
    registry: Registry | None = None,
) -> Any:
    """The component of a path, a short name, or a mapping. See `build_component`."""
    if isinstance(spec, str):
        return instantiate_component(_class(spec, spec_name, registry), None, optional_defaults)
    given = dict(spec)
    kind = given.pop("type", None) or given.pop("name", None)
    if kind is None and (dict_requires_type or dict_default_cls is None):
        raise ConfigError(f"`{spec_name}` is a mapping without `type`; give `type`, the path of a class")
    cls = dict_default_cls if kind is None else _class(kind, spec_name, registry)
    return instantiate_component(cast("type[Any]", cls), given, optional_defaults)


def instantiate_component(
    cls: type[T], provided_kwargs: Mapping[str, Any] | None = None, optional_defaults: OptionalDefaults | None = None
) -> T:
    """`cls(**provided_kwargs)`, with those of `optional_defaults` that its constructor takes."""
    given = dict(provided_kwargs or {})
    for name, value in (optional_defaults or {}).items():
        if name not in given and _takes(cls, name):
            given[name] = value() if callable(value) else value
    return cls(**given)


def load_class(path: str) -> Any:
    """What the dotted `path` names.

    Raises:
        ConfigError: there is no such module, or no such name in it.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path!r} can't be imported: {error}; give the dotted path of a class") from error


def _class(kind: Any, spec_name: str, registry: Registry | None) -> Any:
    if inspect.isclass(kind):
        return kind
    if kind in (registry or {}):
        entry = (registry or {})[kind]
        return load_class(entry) if isinstance(entry, str) else entry
    if not isinstance(kind, str) or "." not in kind:
        known = f" (known are {', '.join(registry)})" if registry else ""
        raise ConfigError(f"`{spec_name}` is {kind!r}; give the dotted path of a class{known}")
    return load_class(kind)


def _takes(cls: type[Any], name: str) -> bool:
    parameters = inspect.signature(cls).parameters
    return name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
