"""YAML of configuration files: a key given twice is an error, and numbers are those of YAML 1.2. Called by `presets`.

YAML 1.1, which PyYAML reads, takes `1e-6` for text and `0.5_2` (two bounds) for 0.52.
"""

from __future__ import annotations

import re
from typing import Any, cast

from agentlightning.types import ConfigError

_INT = re.compile(r"^[-+]?\d+$")
_FLOAT = re.compile(
    r"^[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\d+[eE][-+]?\d+$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)


def read_yaml(text: str, origin: str) -> dict[Any, Any]:
    """The mapping in a YAML text.

    Args:
        text: The file's text.
        origin: What to call the file in messages.

    Raises:
        ConfigError: it is no YAML or no mapping, or a key is given twice; with the line.
    """
    try:
        import yaml
    except ImportError as error:
        raise ConfigError("configuration files need PyYAML: pip install 'agentlightning[verl]'") from error

    class Loader(yaml.SafeLoader):
        """PyYAML's safe loader, stricter about keys and with YAML 1.2's numbers."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: dict[Any, int] = {}
            for key_node, _ in node.value:
                key, line = key_node.value, key_node.start_mark.line + 1
                if key in seen and key != "<<":
                    raise ConfigError(
                        f"{origin}, line {line}: `{key}` is given twice (before in line {seen[key]}); keep one"
                    )
                seen[key] = line
            return super().construct_mapping(node, deep)

    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in numbers]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for tag, pattern in zip(numbers, (_INT, _FLOAT), strict=True):
        Loader.add_implicit_resolver(tag, pattern, list("-+.0123456789"))
    try:
        tree = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{origin}{where} is no YAML: {getattr(error, 'problem', None) or error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin} holds no mapping of keys; write `data:` and its keys below it")
    return cast("dict[Any, Any]", tree)
