"""The environment variables that say which part of a run a process plays, and how to read them.

An explicit argument wins over the variable, the variable over the default. Names follow Agent-Lightning 0.3.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import overload

from agentlightning.types import ConfigError


class LightningEnvVar(StrEnum):
    """Variables that this package reads."""

    AGL_CURRENT_ROLE = "AGL_CURRENT_ROLE"
    """`algorithm`, `runner` or `both`: what this process is in a run over several machines."""
    AGL_SERVER_HOST = "AGL_SERVER_HOST"
    """Host of the store's server; `localhost` if it is not set."""
    AGL_SERVER_PORT = "AGL_SERVER_PORT"
    """Port of the store's server; 4747 if it is not set."""
    AGL_MANAGED_STORE = "AGL_MANAGED_STORE"
    """Whether an execution strategy serves the store that it is given (yes), or takes it as it is."""
    AGL_STORE_TOKEN = "AGL_STORE_TOKEN"
    """What clients of the store's server have to show; needed where the server is not on loopback."""
    AGL_EMITTER_DEBUG = "AGL_EMITTER_DEBUG"
    """Kept as a name; what emitters do is logged by the `agentlightning.emitter` logger."""


_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


@overload
def resolve_bool_env_var(env_var: LightningEnvVar, override: bool, fallback: bool | None = None) -> bool: ...
@overload
def resolve_bool_env_var(env_var: LightningEnvVar, override: bool | None = None, *, fallback: bool) -> bool: ...
@overload
def resolve_bool_env_var(
    env_var: LightningEnvVar, override: bool | None = None, fallback: bool | None = None
) -> bool | None: ...
def resolve_bool_env_var(
    env_var: LightningEnvVar, override: bool | None = None, fallback: bool | None = None
) -> bool | None:
    """`override` if it is given, else the variable, else `fallback`.

    Raises:
        ConfigError: the variable is none of 1, true, yes, on, 0, false, no, off.
    """
    if override is not None:
        return override
    text = os.environ.get(env_var)
    if text is None:
        return fallback
    if text.strip().lower() not in (*_TRUE, *_FALSE):
        raise ConfigError(f"`{env_var}` is {text!r}; set it to one of {', '.join((*_TRUE, *_FALSE))}")
    return text.strip().lower() in _TRUE


@overload
def resolve_int_env_var(env_var: LightningEnvVar, override: int, fallback: int | None = None) -> int: ...
@overload
def resolve_int_env_var(env_var: LightningEnvVar, override: int | None = None, *, fallback: int) -> int: ...
@overload
def resolve_int_env_var(
    env_var: LightningEnvVar, override: int | None = None, fallback: int | None = None
) -> int | None: ...
def resolve_int_env_var(
    env_var: LightningEnvVar, override: int | None = None, fallback: int | None = None
) -> int | None:
    """`override` if it is given, else the variable, else `fallback`. Raises `ConfigError` if it is no whole number."""
    if override is not None:
        return override
    text = os.environ.get(env_var)
    if text is None:
        return fallback
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"`{env_var}` is {text!r}; set it to a whole number") from error


@overload
def resolve_str_env_var(env_var: LightningEnvVar, override: str, fallback: str | None = None) -> str: ...
@overload
def resolve_str_env_var(env_var: LightningEnvVar, override: str | None = None, *, fallback: str) -> str: ...
@overload
def resolve_str_env_var(
    env_var: LightningEnvVar, override: str | None = None, fallback: str | None = None
) -> str | None: ...
def resolve_str_env_var(
    env_var: LightningEnvVar, override: str | None = None, fallback: str | None = None
) -> str | None:
    """`override` if it is given, else the variable, else `fallback`."""
    return override if override is not None else os.environ.get(env_var, fallback)
