"""Several policies in one configuration: which keys may be a policy's own. Called by `compose`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentlightning.types import ConfigError

from .errors import unknown
from .names import is_known
from .overrides import POLICIES
from .schema import PolicyConfig, VerlConfig

_SECTIONS = ("actor_rollout_ref.", "critic.")
COMMON = tuple(
    f"actor_rollout_ref.rollout.{name}"
    for name in ("n", "seed", "temperature", "top_p", "top_k", "do_sample", "val_kwargs")
)
"""Keys (and sections) there that belong to the run: how many rollouts a task has, and how they are sampled, which the
gateway imposes whichever model is asked."""


def foreign(name: str, given: Mapping[str, Any]) -> Iterator[str]:
    """A line for each key that policy `name` can't have of its own."""
    if not name.isidentifier():
        yield f"`{POLICIES}` names a policy {name!r}; it is the name of a resource, so letters, digits and `_`"
    for key in given:
        if key == "trainable":
            continue
        if not is_known(key):
            yield f"policy `{name}`: {unknown(key)}"
        elif not key.startswith(_SECTIONS) or any(f"{key}.".startswith(f"{common}.") for common in COMMON):
            yield f"policy `{name}` can't have `{key}` of its own; set it for all"


def policy_config(view: VerlConfig, given: Mapping[str, Any]) -> PolicyConfig:
    """One policy from the configuration as it has it.

    Raises:
        ConfigError: `trainable` is not a boolean.
    """
    trainable = given.get("trainable", True)
    if not isinstance(trainable, bool):
        raise ConfigError(f"`trainable` of a policy is {trainable!r}; it must be true or false")
    return PolicyConfig(trainable=trainable, actor_rollout_ref=view.actor_rollout_ref, critic=view.critic)
