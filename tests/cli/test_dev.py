"""`agl dev`: every task once, and what became of each."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest


def row(done: Any, number: int) -> list[str]:
    """The cells of one row of the table."""
    found = re.search(rf"^│ {number} .*$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return [cell.strip() for cell in found[0].strip("│").split("│")]


def test_each_task_has_a_row(agl: Any) -> None:
    done = agl("dev", "agents:moody", "--tasks", "moods.jsonl")
    assert done.returncode == 0, done.stderr
    assert row(done, 1)[1:5] == ['{"do":"work"}', "succeeded", "0.5", "0"]
    assert row(done, 2)[2:4] == ["failed", "none"]
    assert row(done, 2)[6] == "RuntimeError: no [mood] today"
    assert "a string" in row(done, 3)[6]
    assert row(done, 4)[2:4] == ["succeeded", "none"]
    assert "4 tasks: 2 succeeded, 2 failed; mean reward 0.500" in done.stdout
    assert 'raise RuntimeError("no [mood] today")' in done.stdout, "the traceback of the first failure"
    assert "teaches nothing" in done.stdout


def test_it_exits_with_1_if_all_fail(agl: Any) -> None:
    (agl.directory / "bad.jsonl").write_text('{"do": "raise"}\n{"do": "nan"}\n')
    done = agl("dev", "agents:moody", "--tasks", "bad.jsonl")
    assert done.returncode == 1
    assert "0 succeeded, 2 failed; no rewards" in done.stdout


def test_a_class_as_agent_and_a_limit(agl: Any) -> None:
    done = agl("dev", "agents:formal", "--tasks", "sums.jsonl", "--tasks", "moods.jsonl", "--limit", "6")
    assert done.returncode == 0, done.stderr
    assert "6 tasks: 6 succeeded, 0 failed; mean reward 1.000" in done.stdout


def test_a_model_on_the_native_engine(agl: Any, model: Path) -> None:
    done = agl("dev", "agents:chatty", "--tasks", "sums.jsonl", "--model-path", str(model))
    assert done.returncode == 0, done.stderr
    assert "4 tasks: 4 succeeded" in done.stdout
    assert row(done, 1)[4] == "1", "its call was recorded"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("agents:chatty", "--tasks", "sums.jsonl"), "needs a model: `--llm-endpoint URL --model NAME`"),
        (("agents:unsaid", "--tasks", "sums.jsonl"), "its class says `needs_resources = False`"),
        (("agents:chatty", "--tasks", "sums.jsonl", "--model", "m"), "go together"),
        (("agents:chatty", "--tasks", "sums.jsonl", "--llm-endpoint", "http://x/v1"), "go together"),
        (
            ("agents:chatty", "--tasks", "sums.jsonl", "--llm-endpoint", "u", "--model", "m", "--model-path", "p"),
            "give one of them",
        ),
        (("agents:chatty", "--tasks", "sums.jsonl", "--model-path", "./nowhere"), "nowhere"),
        (("agents:moody", "--tasks", "none.jsonl"), "`none.jsonl` is not a file"),
        (("agents:moody", "--tasks", "agents.py"), "ends in `.py`"),
        (("agents:moody", "--tasks", "broken.jsonl"), "`broken.jsonl`, line 2: not JSON"),
        (("agents:moody", "--tasks", "empty.jsonl"), "no rows in `empty.jsonl`"),
        (("agents:moody", "--tasks", "moods.jsonl", "--runners", "0"), "`n_runners` must be at least 1"),
    ],
)
def test_what_cannot_work_is_one_error(agl: Any, arguments: tuple[str, ...], expected: str) -> None:
    (agl.directory / "broken.jsonl").write_text('{"do": "work"}\n{"do"\n')
    (agl.directory / "empty.jsonl").write_text("")
    done = agl("dev", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_an_endpoint_that_is_not_there_fails_the_tasks(agl: Any) -> None:
    done = agl(
        "dev", "agents:chatty", "--tasks", "sums.jsonl", "--llm-endpoint", "http://127.0.0.1:9/v1", "--model", "m"
    )
    assert done.returncode == 1
    assert "can't be reached" in done.stdout


def test_ctrl_c_ends_it(agl: Any) -> None:
    process = agl.start("dev", "agents:sleepy", "--tasks", "sums.jsonl", "--limit", "1")
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Traceback" not in error
