"""`agl` itself: help, version, errors as one line."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("command", [(), ("train",), ("dev",), ("serve",), ("export",), ("doctor",)])
def test_help_shows_examples(agl: Any, command: tuple[str, ...]) -> None:
    done = agl(*command, "--help")
    assert done.returncode == 0
    assert " ".join(("agl", *command)) in done.stdout


def test_version(agl: Any) -> None:
    import agentlightning

    assert agl("--version").stdout == f"agl {agentlightning.__version__}\n"


def test_without_a_command_comes_the_help(agl: Any) -> None:
    done = agl()
    assert "doctor" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [("trian",), ("doctor", "--nonsense"), ("train", "agents:moody")])
def test_wrong_usage_exits_with_2(agl: Any, arguments: tuple[str, ...]) -> None:
    done = agl(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_an_error_of_ours_is_one_line_on_stderr(agl: Any) -> None:
    done = agl("dev", "nowhere:agent", "--tasks", "sums.jsonl")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no module `nowhere`")
    assert done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy(agl: Any) -> None:
    done = agl("train", "--help", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert loaded & {"torch", "transformers", "starlette", "sqlalchemy", "openai", "aiohttp"} == set()
