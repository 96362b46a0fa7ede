"""Presets: one small YAML file for each algorithm, with the settings that make it that algorithm.

`preset_settings` reads one, or a YAML file of the user's. Called by `compose`; the files' first comment says what it is
and where its values come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

from agentlightning.types import ConfigError

from ..overrides import Settings, flatten
from .yaml_file import read_yaml

_FILES = "agentlightning.verl.config.presets"
_VERLS_DEFAULTS = "ppo_trainer"
"""Name of verl's own defaults in the `defaults` list of a recipe's file; they are always below everything."""


@cache
def preset_names() -> tuple[str, ...]:
    """All presets, in alphabetical order."""
    files = resources.files(_FILES).iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def preset_text(name: str) -> str:
    """The file of a preset, comments included."""
    return resources.files(_FILES).joinpath(f"{name}.yaml").read_text("utf-8")


def preset_summary(name: str) -> str:
    """What a preset is: its file's first comment."""
    lines: list[str] = []
    for line in preset_text(name).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def config_file(name: str | None, directory: Path | None = None) -> str | None:
    """What `--config-name` and `--config-path` mean together, for `load_config(preset=...)`.

    Raises:
        ConfigError: there is a directory and no name.
    """
    if directory is None:
        return name
    if name is None:
        raise ConfigError(f"`--config-path` is `{directory}`; name the file in it, too: `--config-name NAME`")
    return str(directory.expanduser().absolute() / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"))


def preset_settings(preset: str | Path | None) -> Settings:
    """The settings of a preset or of a YAML file.

    A file may have a `defaults` list as verl's recipes do: names of presets or of files beside it that its own keys go
    over. `ppo_trainer` (verl's defaults) and `_self_` (last) are allowed in it.

    Args:
        preset: A name, or a path that ends in `.yaml` or `.yml`; `None` is no settings.

    Raises:
        ConfigError: there is no such preset or file, it is no YAML, or it gives a key twice.
    """
    return Settings() if preset is None else _load(str(preset), Path.cwd(), ())


def _load(name: str, directory: Path, above: tuple[str, ...]) -> Settings:
    if name in above:
        raise ConfigError(f"`{name}` is among its own `defaults`: {' -> '.join((*above, name))}; take one out")
    text, origin, directory = _find(name, directory)
    tree = read_yaml(text, origin)
    layers = [_load(other, directory, (*above, name)) for other in _defaults(tree.pop("defaults", []), origin)]
    layers.append(flatten(cast("Mapping[str, Any]", tree)))
    values = {key: value for layer in layers for key, value in layer.values.items()}
    return Settings(values, {key: name for layer in layers for key, name in layer.spelling.items()})


def _find(name: str, directory: Path) -> tuple[str, str, Path]:
    """The text of a preset or file, what to call it, and where files beside it are."""
    path = directory / Path(name).expanduser()
    beside = path.with_name(f"{path.name}.yaml")
    if path.suffix not in (".yaml", ".yml") and not beside.is_file():
        if name in preset_names():
            return preset_text(name), f"preset {name}", directory
        raise ConfigError(
            f"there is no preset {name!r}; presets: {', '.join(preset_names())}, or a path to a .yaml file"
        )
    path = beside if beside.is_file() else path
    if not path.is_file():
        raise ConfigError(f"there is no configuration file `{path}`; check `--config-name` and `--config-path`")
    return path.read_text("utf-8"), str(path), path.parent


def _defaults(entries: Any, origin: str) -> list[str]:
    names: list[Any] = entries if isinstance(entries, list) else [entries]
    if "_self_" in names and names[-1] != "_self_":
        raise ConfigError(f"{origin}: `_self_` must be the last of `defaults`; the file's own keys go over the others")
    for entry in names:
        if not isinstance(entry, str):
            raise ConfigError(f"{origin}: `defaults` has {entry!r}; it lists names of presets or files beside this one")
    return [name for name in names if name not in ("_self_", _VERLS_DEFAULTS)]
