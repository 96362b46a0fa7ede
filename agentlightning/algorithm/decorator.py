"""`@algo`: a function as an algorithm, with what it needs injected by parameter name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from agentlightning.types import Dataset

from .base import Algorithm

_INJECTED = ("store", "adapter", "llm_proxy", "initial_resources", "train_dataset", "val_dataset")


class FunctionalAlgorithm(Algorithm):
    """An algorithm made of a function; still callable like the function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._wanted = list(inspect.signature(function).parameters)
        unknown = [name for name in self._wanted if name not in _INJECTED]
        if unknown:
            raise TypeError(
                f"`{function.__name__}` asks for {', '.join(f'`{name}`' for name in unknown)}; an algorithm function "
                f"may ask for {', '.join(f'`{name}`' for name in _INJECTED)}"
            )
        functools.update_wrapper(self, function)  # type: ignore[arg-type]  # a class instance wraps a function

    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self._function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> Any:
        """Call the function with what it asks for.

        Raises:
            TypeError: a dataset was given that the function does not ask for.
        """
        datasets = {"train_dataset": train_dataset, "val_dataset": val_dataset}
        for name, value in datasets.items():
            if value is not None and name not in self._wanted:
                raise TypeError(f"`{name}` was given, but `{self._function.__name__}` does not ask for it")
        getters: dict[str, Callable[[], Any]] = {
            "store": self.get_store,
            "adapter": self.get_adapter,
            "llm_proxy": self.get_llm_proxy,
            "initial_resources": self.get_initial_resources,
            "train_dataset": lambda: train_dataset,
            "val_dataset": lambda: val_dataset,
        }
        return self._function(**{name: getters[name]() for name in self._wanted})


def algo(func: Callable[..., Any]) -> FunctionalAlgorithm:
    """Make an algorithm of a function, sync or async.

    The function's parameters say what it wants, by name: `store`, `adapter`, `llm_proxy`, `initial_resources`,
    `train_dataset`, `val_dataset`.

    Raises:
        TypeError: it asks for something else.
    """
    return FunctionalAlgorithm(func)
