"""The README of `examples/separate`, command by command, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from examples.separate.algorithm import BEGIN, MAILS
from examples.separate.sort_mail import folder_for

ROOT = Path(__file__).parents[3]
PATIENCE_S = 240.0


def blocks() -> list[list[list[str]]]:
    """The commands of the README's `bash` blocks, as lists of words."""
    text = (ROOT / "examples" / "separate" / "README.md").read_text()
    found = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [[shlex.split(line) for line in block.splitlines()] for block in found]


class Terminals:
    """Starts commands as the README has them: in a copy of the repository's layout, on a free port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "examples").symlink_to(ROOT / "examples")
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = str(sock.getsockname()[1])
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        programs = str(Path(sys.executable).parent)
        process = subprocess.Popen(
            [word.replace("4747", self.port) for word in words],
            cwd=self.directory,
            env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            for member in family:
                member.kill()
            process.kill()
            process.communicate()


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    found = Terminals(tmp_path)
    yield found
    found.end()


@pytest.mark.slow
def test_the_readme(terminals: Terminals) -> None:
    (store_command,), (first,), (second,), (search,), looks = blocks()
    store = terminals.start(store_command)
    runners = [terminals.start(first), terminals.start(second)]
    algorithm = terminals.start(search)
    told, _ = algorithm.communicate(timeout=PATIENCE_S)
    assert algorithm.returncode == 0, told

    right = [int(number) for number in re.findall(r"(\d+) of 12", told)]
    assert right[0] == 3, "the program files everything under inbox at first"
    assert right[-1] == len(MAILS)
    assert right == sorted(right)
    found = told.partition("the instruction that was found:\n")[2].strip()
    assert all(folder_for(mail["mail"], found) == mail["folder"] for mail in MAILS)

    for look in looks:
        done = terminals.start(look)
        shown, _ = done.communicate(timeout=PATIENCE_S)
        assert done.returncode == 0, shown
        assert ("succeeded" in shown) or ("idle" in shown) or ("total_rollouts" in shown)
    assert _workers(terminals) == 2

    store.send_signal(signal.SIGINT)
    assert store.wait(PATIENCE_S) == 0
    assert [runner.wait(PATIENCE_S) for runner in runners] == [0, 0], "they end with the store"


def _workers(terminals: Terminals) -> int:
    """How many runners have done something."""
    done = terminals.start(["agl", "query", "workers", "--store", "http://127.0.0.1:4747", "--json"])
    shown, _ = done.communicate(timeout=PATIENCE_S)
    return sum(json.loads(line)["last_busy_time"] is not None for line in shown.splitlines())


def test_the_program_by_hand(tmp_path: Path) -> None:
    """It is a program like any other."""
    (tmp_path / "task.json").write_text(json.dumps(MAILS[0]))
    (tmp_path / "prompt.txt").write_text(f"{BEGIN}\nIf it says invoice, file it under money.")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "separate" / "sort_mail.py")],
        env={"AGL_TASK_FILE": str(tmp_path / "task.json"), "AGL_PROMPT_FILE": str(tmp_path / "prompt.txt")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {"reward": 1.0}
