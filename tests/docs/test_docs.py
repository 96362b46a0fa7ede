"""What the documentation shows is run: code, commands, links.

Of each Markdown file, in a directory of its own:

    ```python file=NAME     is saved as NAME
    ```python               all of these together are one script, which must end well
    ```python no-run        must compile
    ```bash run             must end well, after the script
    ```bash                 each `agl` line must be a command with options that exist, each `make` line a target

The directory holds what the documents speak of: `train.jsonl` and `val.jsonl` with a `question` and an `answer` in
each row, and a tiny model where a hub would have `Qwen/Qwen2.5-0.5B-Instruct`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from agentlightning.cli.app import app

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
FENCE = re.compile(r"^( *)```(\S*)[ \t]*(.*)\n((?:.*\n)*?)\1```[ \t]*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@dataclass
class Block:
    language: str
    flag: str
    line: int
    """Of its first line of code, from 1."""
    code: str


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    for match in FENCE.finditer(text):
        indent, language, flag, code = match.groups()
        code = "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
        found.append(Block(language, flag.strip(), text.count("\n", 0, match.start()) + 2, code))
    return found


def script(page: list[Block]) -> str:
    """The blocks to be run as one file, each on the lines that it has in the document, so that tracebacks fit."""
    text = ""
    for block in page:
        if block.language == "python" and not block.flag:
            text += "\n" * (block.line - 1 - text.count("\n")) + block.code
    return text


def commands(page: list[Block]) -> Iterator[list[str]]:
    for block in page:
        if block.language in ("bash", "sh", "console"):
            for line in block.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line.strip().removeprefix("$ "), comments=True)
                while words and "=" in words[0]:
                    words = words[1:]  # variables set for the command
                if words:
                    yield words


def check_command(words: list[str]) -> None:
    """Raise unless `words` is an `agl` command as there is, a `make` target as there is, or another program's."""
    if words[0] == "agl":
        group = typer.main.get_command(app)
        inner = list(itertools.dropwhile(lambda word: word.startswith("-"), words[1:]))
        with group.make_context("agl", words[1:], resilient_parsing=True) as context:
            if inner:
                name, command, rest = group.resolve_command(context, inner)
                command.make_context(name, rest, resilient_parsing="--help" in rest)
    elif words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in words[1:] if "=" not in word and word not in targets]
        assert not unknown, f"the Makefile has no {unknown}"


@pytest.fixture(scope="session")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the documents speak of."""
    from agentlightning import tiny_model

    directory = tmp_path_factory.mktemp("docs")
    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(4) for b in range(3)]
    for name, part in (("train.jsonl", rows[:8]), ("val.jsonl", rows[8:])):
        (directory / name).write_text("".join(f"{json.dumps(row)}\n" for row in part))
    (directory / MODEL).parent.mkdir()
    tiny_model(directory / MODEL, [str(row) for row in rows], hidden_size=32, num_layers=2, intermediate_size=64)
    return directory


def run(command: list[str], directory: Path) -> None:
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@every_page
def test_code_runs(page: Path, documented: Path, tmp_path: Path) -> None:
    found = blocks(page.read_text())
    for entry in documented.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    for block in found:
        if block.language == "python" and block.flag.startswith("file="):
            (tmp_path / block.flag.removeprefix("file=")).write_text(block.code)
        elif block.language == "python":
            compile(block.code, f"{page.name}:{block.line}", "exec")
    if script(found):
        (tmp_path / "documented.py").write_text(script(found))
        run([sys.executable, "documented.py"], tmp_path)
    for block in found:
        if block.language == "bash" and block.flag == "run":
            run(["bash", "-euo", "pipefail", "-c", block.code], tmp_path)


@every_page
def test_commands_exist(page: Path) -> None:
    for words in commands(blocks(page.read_text())):
        check_command(words)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if not re.match(r"\w+:", link)]
    assert [link for link in links if not (page.parent / link).exists()] == []


@every_page
def test_flags_of_blocks_are_known(page: Path) -> None:
    flags = {f"{block.language} {block.flag}" for block in blocks(page.read_text()) if block.flag}
    assert [flag for flag in flags if not re.fullmatch(r"python (no-run|file=[\w.]+)|bash run", flag)] == []


def test_a_script_keeps_the_lines_of_the_page() -> None:
    page = "# A\n\n```python\nx = 1\n```\ntext\n  ```python\n  y = x\n  ```\n```python no-run\nz\n```\n"
    assert script(blocks(page)) == "\n\n\nx = 1\n\n\n\ny = x\n"


@pytest.mark.parametrize("line", ["agl trian x", "agl train m:a --run x --nonsense", "make lunch", "agl dev m:a"])
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"No such|Missing|has no"):
        check_command(shlex.split(line))


@pytest.mark.parametrize("line", ["agl dev m:a --tasks f.jsonl", "agl serve --help", "make train SEED=1", "curl -s x"])
def test_a_right_command_passes(line: str) -> None:
    check_command(shlex.split(line))
