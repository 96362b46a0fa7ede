"""Finding the agent that a command line names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentlightning.cli.target import load_agent
from agentlightning.litagent import LitAgent
from agentlightning.types import ConfigError


@pytest.fixture(autouse=True)
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (project / "agents.py").rename(project / "four_agents.py")  # `agents` is a package that other tests import
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield project
    for name in set(sys.modules) - known:  # each test has a `four_agents.py` of its own
        if getattr(sys.modules[name], "__file__", None) and str(project) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_a_module_of_the_working_directory() -> None:
    assert isinstance(load_agent("four_agents:moody"), LitAgent)
    assert type(load_agent("four_agents:formal")).__name__ == "Formal"


def test_a_module_of_a_package(here: Path) -> None:
    (here / "pack").mkdir()
    (here / "pack" / "inner.py").write_text("from four_agents import moody as agent")
    assert isinstance(load_agent("pack.inner:agent"), LitAgent)


def test_a_file_elsewhere_with_neighbours(here: Path) -> None:
    (here / "deep").mkdir()
    (here / "deep" / "neighbour.py").write_text("from four_agents import moody")
    (here / "deep" / "mine.py").write_text("from neighbour import moody as agent")
    assert isinstance(load_agent("deep/mine.py:agent"), LitAgent)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("four_agents", "`MODULE:AGENT`"),
        ("four_agents:", "`MODULE:AGENT`"),
        (":moody", "`MODULE:AGENT`"),
        ("nowhere:moody", "no module `nowhere`.*`path/to/nowhere.py:moody`"),
        ("nowhere.deep:moody", "no module `nowhere.deep`"),
        ("nowhere.py:moody", "no file `nowhere.py`"),
        ("four_agents:mody", "no `mody`; its agents are `chatty`, `moody`, `sleepy`, `formal`"),
        ("json:loads", "is a function, not an agent; decorate it with `@agl.rollout`"),
        ("json:nothing", "it has no agents"),
        ("four_agents:plain", "decorate it with `@agl.rollout`"),
        ("four_agents:Formal", r"is a class; make an object, `agent = Formal\(\)`"),
        ("four_agents:client", "is a OpenAI, not an agent"),
    ],
)
def test_what_is_no_agent_is_refused(target: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_agent(target)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import nonsense_package", "ModuleNotFoundError: No module named 'nonsense_package'.*line 1"),
        ("x = 1\ny = 1 / 0", r"ZeroDivisionError: division by zero \(.*broken.*py, line 2\)"),
        ("def f(:", r"SyntaxError: .*line 1\)$"),
    ],
)
@pytest.mark.parametrize("target", ["broken{}:agent", "./broken{}.py:agent"])
def test_a_module_that_fails_says_where(here: Path, source: str, expected: str, target: str) -> None:
    (here / "broken1.py").write_text(source)
    with pytest.raises(ConfigError, match=f"importing .*broken1.* failed: {expected}"):
        load_agent(target.format(1))
