"""The lines that `docs/clients.md` shows are those of the agents that were tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .test_clients import AGENTS, CLIENTS

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
BLOCKS = re.findall(r"^```\w+[^\n]*\n(?:#|//) ([\w.]+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def squeezed(code: str) -> str:
    """The code without white space and without the commas that formatting adds."""
    return re.sub(r",(?=[)\]}])", "", re.sub(r"\s+", "", code))


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_shown_lines_are_the_agents(name: str, block: str) -> None:
    agent = squeezed((AGENTS / name).read_text())
    statements = re.split(r"\n(?=[^\s)\]}])", block.strip())
    assert [statement for statement in statements if squeezed(statement) not in agent] == []


def test_each_block_says_whose_it_is() -> None:
    assert len(BLOCKS) == PAGE.count("```") // 2


def test_the_table_names_each_agent() -> None:
    table = set(re.findall(r"`(\w+)\.(?:py|sh|mjs)`", PAGE))
    assert table == {client.name for client in CLIENTS}
