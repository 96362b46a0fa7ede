"""Programs written for Agent-Lightning 0.3 do here what they do there.

`expected.json` holds what each program of `programs.py` returned on 0.3.0 itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import programs

EXPECTED: dict[str, Any] = json.loads(Path(__file__).with_name("expected.json").read_text())


@pytest.mark.parametrize("program", programs.PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_gives_what_it_gives_on_0_3(program: Callable[[], Any]):
    found = program()
    if asyncio.iscoroutine(found):
        found = asyncio.run(found)
    expected = EXPECTED[program.__name__]
    assert json.loads(json.dumps(found)) == expected


def test_every_program_has_its_result():
    assert sorted(EXPECTED) == sorted(program.__name__ for program in programs.PROGRAMS)
