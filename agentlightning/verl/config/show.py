"""A configuration as YAML that can be read again. Called by `agl config`."""

from __future__ import annotations

from agentlightning.types import ConfigError

from .policies import COMMON
from .schema import VerlConfig


def as_yaml(config: VerlConfig) -> str:
    """All keys of a resolved configuration; `load_config(preset=FILE)` on it gives the same again.

    Raises:
        ConfigError: PyYAML is missing.
    """
    try:
        import yaml
    except ImportError as error:
        raise ConfigError("printing a configuration needs PyYAML: pip install 'agentlightning[verl]'") from error
    tree = config.model_dump(mode="json")
    for policy in tree["agentlightning"]["policies"].values():
        for key in COMMON:
            del policy["actor_rollout_ref"]["rollout"][key.rpartition(".")[2]]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
