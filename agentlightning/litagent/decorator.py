"""Agents as functions: `@rollout`, `@llm_rollout`, `@prompt_rollout`.

A decorated function stays the function it was when it is called; the runner sees a `LitAgent` that gives each
parameter what its *name* asks for.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from agentlightning.types import LLM, AttemptedRollout, NamedResources, PromptTemplate, ProxyLLM, RolloutMode

from .litagent import LitAgent

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

INJECTED = ("llm", "prompt_template", "resources", "rollout")
"""Names that a parameter after `task` may have."""


class FunctionalLitAgent(LitAgent[Any], Generic[P, R]):
    """A function as an agent.

    Args:
        rollout_func: Sync or async; its first parameter is `task`, the others are named in `INJECTED`.
        strip_proxy: Whether the function gets a plain `LLM`, whose endpoint is that of the attempt, for a `ProxyLLM`.

    Raises:
        TypeError: the function's parameters are not of these names.
    """

    def __init__(self, rollout_func: Callable[P, R], *, strip_proxy: bool = True):
        super().__init__()
        self._function = rollout_func
        self._strip_proxy = strip_proxy
        self._wanted = _wanted(rollout_func)
        self.needs_resources = bool({"llm", "prompt_template", "resources"} & set(self._wanted))
        self._warned: set[str] = set()
        functools.update_wrapper(self, rollout_func)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself: nothing is injected, traced or stored."""
        return self._function(*args, **kwargs)

    def __reduce__(self) -> Any:
        """By name where the name of the function means this agent in a module; else by value, function and all."""
        module, name = str(self.__module__), str(getattr(self, "__qualname__", ""))
        found: Any = sys.modules.get(module) if module != "__main__" else None
        for part in name.split("."):
            found = getattr(found, part, None)
        return name if found is self else super().__reduce__()

    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self._function)

    def entry(self, mode: RolloutMode | None) -> Callable[..., Any]:
        """The same function for every mode."""
        return self.rollout_async if self.is_async() else self.rollout

    def rollout(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Call the function with what its parameters ask for.

        Raises:
            RuntimeError: the function is async.
            ValueError: `resources` holds no LLM or no prompt template, and the function asks for one.
        """
        if self.is_async():
            raise RuntimeError(f"`{self._name}` is async: use `rollout_async`")
        return self._function(task, **self._arguments(resources, rollout))  # type: ignore[call-arg]

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """As `rollout`, for an async function."""
        if not self.is_async():
            raise RuntimeError(f"`{self._name}` is not async: use `rollout`")
        return await self._function(task, **self._arguments(resources, rollout))  # type: ignore[call-arg,misc]

    @property
    def _name(self) -> str:
        return getattr(self._function, "__name__", repr(self._function))

    def _arguments(self, resources: NamedResources, rollout: AttemptedRollout) -> dict[str, Any]:
        if self._strip_proxy:
            resources = {
                name: value.with_attempted_rollout(rollout) if isinstance(value, ProxyLLM) else value
                for name, value in resources.items()
            }
        give: dict[str, Callable[[], Any]] = {
            "llm": lambda: self._first(resources, LLM, "llm"),
            "prompt_template": lambda: self._first(resources, PromptTemplate, "prompt_template"),
            "resources": lambda: resources,
            "rollout": lambda: rollout,
        }
        return {name: give[name]() for name in self._wanted}

    def _first(self, resources: NamedResources, kind: type[Any], parameter: str) -> Any:
        found = {name: value for name, value in resources.items() if isinstance(value, kind)}
        if not found:
            have = ", ".join(f"`{n}` ({v.resource_type})" for n, v in resources.items()) or "none"
            raise ValueError(
                f"`{self._name}` takes `{parameter}`, but there is no {kind.__name__} among the resources ({have}); "
                "add one to the store or to the trainer's `initial_resources`"
            )
        name = next(iter(found))
        if len(found) > 1 and parameter not in self._warned:
            self._warned.add(parameter)
            text = "`%s` gets `%s`, the first of %s, as `%s`; take `resources` to choose"
            logger.warning(text, self._name, name, list(found), parameter)
        return found[name]


def _wanted(function: Callable[..., Any]) -> list[str]:
    name = getattr(function, "__name__", repr(function))
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"an agent function is needed, not {name}; agents as classes subclass `LitAgent`")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].name != "task" or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        first = f"`{parameters[0].name}`" if parameters else "missing"
        raise TypeError(f"the first parameter of `{name}` must be called `task`, but it is {first}")
    wanted: list[str] = []
    for parameter in parameters[1:]:
        variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if parameter.name in INJECTED and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY and not variadic:
            wanted.append(parameter.name)
        elif parameter.default is inspect.Parameter.empty and not variadic:
            allowed = ", ".join(f"`{n}`" for n in INJECTED)
            raise TypeError(
                f"parameter `{parameter.name}` of `{name}` is not known: after `task` there may be {allowed}; "
                "give it a default, or take `resources` and pick what you need"
            )
    return wanted


def _needs(function: Callable[..., Any], parameter: str, decorator: str) -> None:
    if parameter not in _wanted(function):
        name = getattr(function, "__name__", repr(function))
        raise TypeError(f"`@{decorator}` needs a function that takes `{parameter}`, and `{name}` does not")


@overload
def rollout(func: Callable[P, R], *, strip_proxy: bool = True) -> FunctionalLitAgent[P, R]: ...
@overload
def rollout(func: None = None, *, strip_proxy: bool = True) -> Callable[[Callable[P, R]], FunctionalLitAgent[P, R]]: ...
def rollout(func: Callable[..., Any] | None = None, *, strip_proxy: bool = True) -> Any:
    """Make an agent of a function whose first parameter is `task`.

    The parameters after it get, by name: `llm` the first LLM and `prompt_template` the first prompt template among the
    resources, `resources` all of them, `rollout` the ids, mode and metadata of the attempt. The function returns what
    `LitAgent.rollout` may return, mostly a reward.

    Args:
        func: Sync or async.
        strip_proxy: Whether a `ProxyLLM` is given as the plain `LLM` of the attempt.

    Raises:
        TypeError: a parameter has another name and no default.
    """
    if func is None:
        return functools.partial(rollout, strip_proxy=strip_proxy)
    return FunctionalLitAgent(func, strip_proxy=strip_proxy)


@overload
def llm_rollout(func: Callable[P, R], *, strip_proxy: bool = True) -> FunctionalLitAgent[P, R]: ...
@overload
def llm_rollout(
    func: None = None, *, strip_proxy: bool = True
) -> Callable[[Callable[P, R]], FunctionalLitAgent[P, R]]: ...
def llm_rollout(func: Callable[..., Any] | None = None, *, strip_proxy: bool = True) -> Any:
    """`rollout` for a function that takes `task` and `llm`. Raises `TypeError` if it doesn't."""
    if func is None:
        return functools.partial(llm_rollout, strip_proxy=strip_proxy)
    _needs(func, "llm", "llm_rollout")
    return FunctionalLitAgent(func, strip_proxy=strip_proxy)


@overload
def prompt_rollout(func: Callable[P, R]) -> FunctionalLitAgent[P, R]: ...
@overload
def prompt_rollout(func: None = None) -> Callable[[Callable[P, R]], FunctionalLitAgent[P, R]]: ...
def prompt_rollout(func: Callable[..., Any] | None = None) -> Any:
    """`rollout` for a function that takes `task` and `prompt_template`. Raises `TypeError` if it doesn't."""
    if func is None:
        return prompt_rollout
    _needs(func, "prompt_template", "prompt_rollout")
    return FunctionalLitAgent(func)
