"""Reward functions: loading the user's own, calling it, and reading what it returns.

`Scorer` is what the built-in agent (`verl.single_turn`) holds. It travels to runner processes, so it keeps the path of
the file and loads the function where it is first used.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import inspect
import numbers
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from agentlightning.emitter.reward import reward_number
from agentlightning.types import ConfigError

from .rules import compute_score

REWARD = "reward"
"""Name of the dimension that training uses."""
MAX_THREADS = 256
"""Reward functions that are not async run in threads; how many at once is bounded by the runner's concurrency."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward function said of one answer."""

    rewards: dict[str, float]
    """By dimension; `reward` first."""
    labels: dict[str, str] = field(default_factory=dict[str, str])
    """What is not a number, such as `pred`, the result that was given."""


class Scorer:
    """Scores answers with a function from a file, or with the rules by data source.

    Args:
        path: File of the function; `None`: the built-in rules.
        name: The function's name in it.
        kwargs: More keyword arguments for it; they win over those of the row.
    """

    def __init__(
        self, path: str | Path | None = None, name: str = "compute_score", kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.path = None if path is None else Path(path).expanduser().resolve()
        self.name = name
        self.kwargs = dict(kwargs or {})
        self._function: Callable[..., Any] | None = None
        self._threads: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_function": None, "_threads": None}

    @property
    def builtin(self) -> bool:
        """Whether the rules score."""
        return self.path is None

    def check(self) -> None:
        """Load the function now, so that a wrong one is an error before anything is started. As `load_function`."""
        _ = self.function

    @property
    def function(self) -> Callable[..., Any]:
        """The function. Raises as `load_function`."""
        if self._function is None:
            self._function = compute_score if self.path is None else load_function(self.path, self.name, self.kwargs)
        return self._function

    async def __call__(self, row: Mapping[str, Any], solution_str: str) -> Score:
        """The score of an answer to a row of `verl.prompts`. What the function raises goes on to the caller."""
        function = self.function
        given: dict[str, Any] = {
            "data_source": row["data_source"],
            "solution_str": solution_str,
            "ground_truth": row["reward_model"].get("ground_truth"),
            "extra_info": dict(row["extra_info"]),
            **self.kwargs,
        }
        if self.builtin:
            return read_score(function(**given))
        if inspect.iscoroutinefunction(function):
            return read_score(await function(**given), self.name)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="agl-reward")
        call = partial(contextvars.copy_context().run, partial(function, **given))  # so that it may emit, too
        result = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        return read_score(await result if inspect.isawaitable(result) else result, self.name)


def load_function(path: Path, name: str, kwargs: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """The reward function `name` of the Python file `path`.

    Args:
        kwargs: `reward.custom_reward_function.reward_kwargs`, which it must accept.

    Raises:
        ConfigError: there is no such file or function, importing the file fails, or the function does not take the
            arguments that it is called with.
    """
    place = f"`reward.custom_reward_function.path` `{path}`"
    if not path.is_file():
        raise ConfigError(f"{place} is not a file; give the path of a Python file")
    spec = importlib.util.spec_from_file_location(f"agentlightning_reward_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{place} is not a Python file; its name must end in `.py`")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes can be pickled, and dataclasses find their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"importing {place} failed: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(
            f"{place} has no function `{name}`; write one, or name it in `reward.custom_reward_function.name`"
        )
    _check_signature(function, name, kwargs or {})
    return cast("Callable[..., Any]", function)


def _check_signature(function: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> None:
    given = {"data_source": "", "solution_str": "", "ground_truth": "", "extra_info": {}, **kwargs}
    try:
        inspect.signature(function).bind(**given)
    except TypeError as error:
        raise ConfigError(
            f"the reward function `{name}` can't be called: {error}; it must take the keywords "
            f"{', '.join(f'`{key}`' for key in given)}"
        ) from error


def read_score(result: Any, name: str = "compute_score") -> Score:
    """What a reward function returned, as verl reads it.

    A number is the reward, and also the accuracy `acc`. Of a dictionary `score` is the reward; every other number is
    a dimension of its own, every other text a label. `None` values are left out.

    Raises:
        TypeError: it is neither, `score` is missing, or a value is neither a number nor text.
        ValueError: a number is not finite.
    """
    if isinstance(result, (numbers.Real, np.bool_)):
        number = reward_number(result, name)
        return Score({REWARD: number, "acc": number})
    if not isinstance(result, Mapping):
        raise TypeError(
            f"the reward function `{name}` returned {result!r:.100}; it must return a number, or a dictionary with "
            "`score`"
        )
    fields = {str(key): value for key, value in cast("Mapping[Any, Any]", result).items() if value is not None}
    if "score" not in fields:
        raise TypeError(f"the reward function `{name}` returned a dictionary without `score`: {sorted(fields)}")
    labels = {key: value for key, value in fields.items() if isinstance(value, str)}
    if "score" in labels:
        raise TypeError(f"the reward function `{name}` returned the text {labels['score']!r} as `score`, not a number")
    values = {key: reward_number(value, f"{name}: {key}") for key, value in fields.items() if key not in labels}
    return Score({REWARD: values["score"], **{key: v for key, v in values.items() if key != REWARD}}, labels)
