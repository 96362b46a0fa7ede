"""What `make train` passes on. Nothing is run: `make -n` only prints."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VARIABLES = ("SEED", "RUN", "MODEL", "RESUME")


def printed(*words: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "MAKEFLAGS", "MAKELEVEL")}
    command = ["make", "--no-print-directory", *words]
    done = subprocess.run(command, cwd=ROOT, env={**clean, **environment}, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize(
    ("words", "environment", "flags"),
    [
        ((), {}, ""),
        (("SEED=1", "RUN=a b"), {}, '--seed "1" --run "a b"'),
        (("RUN=a", "RESUME=1"), {}, '--run "a" --resume'),
        (("RUN=a", "RESUME=0"), {}, '--run "a"'),
        ((), {"MODEL": "Qwen/Qwen2.5-0.5B-Instruct"}, '--model "Qwen/Qwen2.5-0.5B-Instruct"'),
    ],
)
def test_train_passes_on_what_is_set(words: tuple[str, ...], environment: dict[str, str], flags: str) -> None:
    last = printed("-n", "train", *words, **environment).splitlines()[-1]
    assert last.split() == f".venv/bin/python -m examples.calc.train {flags}".split()


def test_make_alone_lists_the_commands() -> None:
    listed = [line.split()[1] for line in printed().splitlines()]
    assert {"setup", "train", "test", "check", "docs", "bench", "clean"} <= set(listed)
