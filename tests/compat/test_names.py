"""Every name of Agent-Lightning 0.3 that we promise is there and takes the arguments that 0.3's takes.

`names.json` is the table: module -> name -> what is known of it.
    call, methods   parameters in order: `?` has a default, `=` only by keyword, `/` only by position
    fields          of a data model
    values          of an enum
    is              the value of a constant
    base            the class that has the other methods
    as              the module whose entry of this name counts
A `null` in `methods` is a property.
"""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentlightning import not_built

TABLE: dict[str, dict[str, dict[str, Any]]] = json.loads(Path(__file__).with_name("names.json").read_text())


def entries() -> Iterator[tuple[str, str]]:
    for module, names in TABLE.items():
        for name in names:
            yield module, name


def calls() -> Iterator[Any]:
    """(module, dotted name, parameters) of everything that can be called."""
    for module, names in TABLE.items():
        for name, entry in names.items():
            if "call" in entry:
                yield pytest.param(module, name, entry["call"], id=f"{module}.{name}")
            for method, parameters in methods(module, entry).items():
                if parameters is not None:
                    dotted = f"{name}.{method}"
                    yield pytest.param(module, dotted, parameters, id=f"{module}.{dotted}")


def methods(module: str, entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (base := entry.get("base")) is not None:
        found |= methods("agentlightning", TABLE["agentlightning"][base])
    return found | entry.get("methods", {})


def is_attribute(cls: type[Any], name: str) -> bool:
    """A property, or declared on the class and set on each object."""
    declared = any(name in vars(base).get("__annotations__", {}) for base in cls.__mro__)
    return declared or isinstance(inspect.getattr_static(cls, name, None), property)


def resolve(module: str, dotted: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in dotted.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("module", "name"), list(entries()))
def test_a_name_can_be_imported(module: str, name: str):
    namespace: dict[str, Any] = {}
    exec(f"from {module} import {name}", namespace)
    entry = TABLE[module][name]
    if "as" in entry:
        assert namespace[name] is resolve(entry["as"], name)
    for field in entry.get("fields", ()):
        assert field in namespace[name].model_fields or isinstance(getattr(namespace[name], field), property)
    for member, value in entry.get("values", {}).items():
        assert namespace[name][member].value == value
    for method, parameters in methods(module, entry).items():
        if parameters is None:
            assert is_attribute(namespace[name], method), f"`{name}.{method}` is no attribute"
    if "is" in entry:
        assert namespace[name] == entry["is"]


@pytest.mark.parametrize(("module", "dotted", "parameters"), list(calls()))
def test_a_call_takes_the_same_arguments(module: str, dotted: str, parameters: str):
    signature = inspect.signature(resolve(module, dotted))
    ours = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    theirs = parameters.split()
    required = [name for name in theirs if not name.startswith("?")]
    by_name = {p.name: p for p in ours}
    anything = {p.kind for p in ours} & {inspect.Parameter.VAR_KEYWORD}
    for position, name in enumerate(theirs):
        plain = name.lstrip("?=/")
        found = by_name.get(plain)
        if name.lstrip("?").startswith("/"):
            assert position < len(ours), f"position {position} (`{plain}`) is not taken"
            continue
        assert found is not None or anything, f"`{plain}` is not taken"
        if found is not None and not name.lstrip("?").startswith("="):
            assert found.kind is not inspect.Parameter.KEYWORD_ONLY, f"`{plain}` can't be given by position"
            assert ours.index(found) == position, f"`{plain}` is not at position {position}"
    needed = [p.name for p in ours if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    assert set(needed) <= {name.lstrip("?=/") for name in required} or parameters.startswith("/"), (
        f"{needed} are needed, 0.3 needs {required}"
    )


@pytest.mark.parametrize("name", sorted(not_built.NAMES))
def test_what_is_left_out_says_what_to_use(name: str):
    import agentlightning as agl

    assert name not in agl.__all__
    with pytest.raises(ImportError, match=name) as caught:
        exec(f"from agentlightning import {name}")
    assert not_built.NAMES[name] in str(caught.value)
    assert not hasattr(agl, name)
    with pytest.raises(AttributeError, match=name) as unknown:
        getattr(agl, name)
    assert str(unknown.value) == str(caught.value)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("types", "RolloutLegacy"),
        ("tracer", "AgentOpsTracer"),
        ("store", "MongoLightningStore"),
        ("runner", "LegacyAgentRunner"),
    ],
)
def test_rooms_say_it_too(module: str, name: str):
    with pytest.raises(ImportError, match="does not exist here"):
        exec(f"from agentlightning.{module} import {name}")


@pytest.mark.parametrize("module", sorted(not_built.MODULES))
def test_modules_that_are_left_out_say_what_to_use(module: str):
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(module)
    assert not_built.MODULES[module] in str(caught.value)


def test_other_unknown_modules_and_names_fail_as_always():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'agentlightning\.nonsense'"):
        importlib.import_module("agentlightning.nonsense")
    assert not hasattr(importlib.import_module("agentlightning.types"), "nonsense")
    with pytest.raises(AttributeError, match="fit_v0"):
        importlib.import_module("agentlightning").Trainer.fit_v0  # noqa: B018


def test_star_import_brings_the_public_names():
    code = "from agentlightning import *; print(Trainer.__name__, emit_reward.__name__, Hook.__name__)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["Trainer", "emit_reward", "Hook"]


def test_arguments_of_0_3_that_do_nothing_here_say_so():
    import agentlightning as agl

    with pytest.warns(UserWarning, match="retention"):
        store = agl.InMemoryLightningStore(thread_safe=True, eviction_memory_threshold=0.5)
    with pytest.warns(UserWarning, match="/v1/prometheus"):
        agl.LightningStoreServer(store, "127.0.0.1", 0, tracker=object())
    with pytest.warns(UserWarning, match="is not used") as said:
        agl.LLMProxy(num_workers=4, launch_mode="mp", callbacks=["opentelemetry"], middlewares=["rollout_attempt"])
    assert [str(warning.message).split()[0] for warning in said] == ["`num_workers`", "`middlewares`", "`callbacks`"]
    for wrong in ({"n_workers": 4}, {"launcher_args": object()}, {"launch_mode": "mp"}):
        with pytest.raises(ValueError, match="PostgreSQL"):
            agl.LightningStoreServer(store, **wrong)
