"""The agent that a command line names: `module:agent` or `path/to/file.py:agent`. Called by `train` and `dev`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from agentlightning.litagent import LitAgent
from agentlightning.types import ConfigError


def load_agent(target: str) -> LitAgent[Any]:
    """Import the agent; the working directory is on the import path.

    Args:
        target: `module:agent` (`package.module:agent`), or `path/to/file.py:agent`.

    Raises:
        ConfigError: the text has another form, the module can't be imported, or the name is not an agent.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ConfigError(
            f"the agent is given as `MODULE:AGENT` or `FILE.py:AGENT`, as in `my_agent:agent`; got `{target}`"
        )
    sys.path.insert(0, str(Path.cwd()))
    module = _run_file(Path(place)) if place.endswith(".py") else _import(place, name)
    if not hasattr(module, name):
        raise ConfigError(f"`{place}` has no `{name}`; {_offer(module)}")
    return _checked(getattr(module, name), target)


def _import(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(module, error) from error
        raise ConfigError(
            f"there is no module `{module}`; run the command in the directory that holds it, or name its file: "
            f"`path/to/{module.rpartition('.')[2]}.py:{name}`"
        ) from error
    except Exception as error:
        raise _failed(module, error) from error


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file `{path}`")
    sys.path.insert(0, str(path.resolve().parent))  # as `python file.py` has it
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(str(path), error) from error
    return module


def _failed(place: str, error: Exception) -> ConfigError:
    where = ""
    if not isinstance(error, SyntaxError):  # which says itself where
        frame = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")][-1]
        where = f" ({frame.filename}, line {frame.lineno})"
    return ConfigError(f"importing `{place}` failed: {type(error).__name__}: {error}{where}")


def _offer(module: ModuleType) -> str:
    agents = [name for name, value in vars(module).items() if isinstance(value, LitAgent)]
    if agents:
        return "its agents are " + ", ".join(f"`{name}`" for name in agents)
    return (
        "it has no agents; decorate a function with `@agl.rollout`, or make an object of a subclass of `agl.LitAgent`"
    )


def _checked(value: Any, target: str) -> LitAgent[Any]:
    if isinstance(value, LitAgent):
        return value  # pyright: ignore[reportUnknownVariableType]
    if inspect.isclass(value) and issubclass(value, LitAgent):
        raise ConfigError(f"`{target}` is a class; make an object, `agent = {value.__name__}()`, and name that")
    mend = "decorate it with `@agl.rollout`" if inspect.isfunction(value) else "it must be an `agl.LitAgent`"
    raise ConfigError(f"`{target}` is a {type(value).__name__}, not an agent; {mend}")
