"""`agl serve`: an OpenAI-compatible server, for the stock client and for agents."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest


@pytest.fixture
def url(agl: Any, model: Path) -> Iterator[str]:
    """Base URL of a server on a free port."""
    process = agl.start("serve", str(model), "--port", "0", "--slots", "4")
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        assert found, line + process.stderr.read()
        yield found[0]
    finally:
        process.kill()
        process.communicate()


def test_the_stock_client_and_an_agent_can_use_it(agl: Any, url: str, model: Path) -> None:
    client = openai.OpenAI(base_url=url, api_key="none")
    assert [entry.id for entry in client.models.list()] == [str(model)]
    question = [{"role": "user", "content": "0 + 1"}]
    reply = client.chat.completions.create(model=str(model), messages=question, max_tokens=3, temperature=0)
    assert reply.usage.completion_tokens <= 3

    done = agl("dev", "agents:chatty", "--tasks", "sums.jsonl", "--llm-endpoint", url, "--model", str(model))
    assert done.returncode == 0, done.stderr
    assert "4 tasks: 4 succeeded" in done.stdout
    assert re.search(r"^│ 1 .*│ 1 +│", done.stdout, re.MULTILINE), "its call was recorded"


def test_a_model_may_have_another_name(agl: Any, model: Path) -> None:
    process = agl.start("serve", str(model), "--port", "0", "--name", "mine")
    try:
        client = openai.OpenAI(base_url=process.stdout.readline().split()[-1], api_key="none")
        assert [entry.id for entry in client.models.list()] == ["mine"]
        reply = client.completions.create(model="mine", prompt="0 + 1", max_tokens=2)
        assert reply.model == "mine"
        with pytest.raises(openai.NotFoundError, match=r"ask for .mine."):
            client.completions.create(model=str(model), prompt="0", max_tokens=2)
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_ends_it(agl: Any, model: Path) -> None:
    process = agl.start("serve", str(model), "--port", "0")
    url = process.stdout.readline().split()[-1]
    openai.OpenAI(base_url=url, api_key="none").models.list()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode in (0, 130)
    assert "Traceback" not in error


def test_a_key_is_asked_for(agl: Any, model: Path) -> None:
    process = agl.start("serve", str(model), "--port", "0", AGL_API_KEY="sesame")
    try:
        url = process.stdout.readline().split()[-1]
        assert openai.OpenAI(base_url=url, api_key="sesame").models.list().data
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="none").models.list()
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken(agl: Any, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = agl("serve", str(model), "--port", str(port))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert str(port) in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("./nowhere",), "nowhere"),
        ((".",), "error: "),
        (("{model}", "--device", "tpu"), "`--device tpu` can't be used here"),
        (("{model}", "--host", "0.0.0.0"), "give an `api_key`"),
    ],
)
def test_what_cannot_work_is_one_error(agl: Any, model: Path, arguments: tuple[str, ...], expected: str) -> None:
    done = agl("serve", *(argument.format(model=model) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
