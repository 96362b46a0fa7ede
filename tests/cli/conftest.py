"""A project directory as a user has it, and `agl` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AGENTS = '''
import difflib
import time

import openai

import agentlightning as agl

client = openai.OpenAI(base_url="http://unused", api_key="none")


@agl.rollout
def chatty(task, llm):
    here = client.with_options(base_url=llm.endpoint, api_key=llm.api_key or "none")
    messages = [{"role": "user", "content": task["question"]}]
    reply = here.chat.completions.create(model=llm.model, messages=messages, max_tokens=8)
    return difflib.SequenceMatcher(None, reply.choices[0].message.content or "", task["answer"]).ratio()


@agl.rollout
def moody(task):
    """Does what the task says."""
    if task["do"] == "raise":
        raise RuntimeError("no [mood] today")
    return {"work": 0.5, "talk": "a string", "nothing": None, "nan": float("nan")}[task["do"]]


@agl.rollout
def sleepy(task):
    print("asleep", flush=True)
    time.sleep(600)


class Formal(agl.LitAgent):
    needs_resources = False

    def rollout(self, task, resources, rollout):
        return 1.0


formal = Formal()


class Unsaid(agl.LitAgent):
    def rollout(self, task, resources, rollout):
        return 1.0


unsaid = Unsaid()


def plain(task):
    return 1.0
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with `agents.py`, `sums.jsonl` and `moods.jsonl`."""
    (tmp_path / "agents.py").write_text(AGENTS)
    write_rows(tmp_path / "sums.jsonl", [{"question": f"{a} + 1", "answer": str(a + 1)} for a in range(4)])
    write_rows(tmp_path / "moods.jsonl", [{"do": "work"}, {"do": "raise"}, {"do": "talk"}, {"do": "nothing"}])
    return tmp_path


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


class Agl:
    """The console script, each time in a process of its own, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.command = str(Path(sys.executable).parent / "agl")

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        try:
            out, error = process.communicate(timeout=200)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        return subprocess.Popen(
            [self.command, *arguments],
            cwd=self.directory,
            env={**os.environ, **settings, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def agl(project: Path) -> Agl:
    """`agl("dev", ...)` runs the command line in `project`, `agl.start(...)` begins it."""
    return Agl(project)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model that knows digits."""
    from agentlightning import tiny_model

    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model(path, ["0 + 1"], hidden_size=32, num_layers=2, intermediate_size=64, max_context=256)
    return path
