"""The tables of `docs/config.md`, made from the code: `python -m agentlightning.verl.config.tables docs/config.md`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. A test holds that the page has what the code says.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .answers import RULES
from .differences import DIFFERENCES
from .overrides import ALIASES, SECTION_ALIASES
from .presets import preset_names, preset_summary

_SPOT = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with every table made anew.

    Raises:
        KeyError: it asks for a table that there is not.
    """
    makers = {"differences": _differences, "presets": _presets, "spellings": _spellings, "answers": _answers}
    return _SPOT.sub(lambda spot: spot[1] + "\n".join(makers[spot[2]]()) + "\n" + spot[3], page)


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _differences() -> Iterator[str]:
    rows = ((f"`{d.key}`", f"`{d.verl}`", _value(d.ours), d.why) for d in DIFFERENCES)
    return _table(("key", "verl", "here", "why"), rows)


def _presets() -> Iterator[str]:
    return _table(("name", "what"), ((f"`{name}`", preset_summary(name)) for name in preset_names()))


def _spellings() -> Iterator[str]:
    whole = ((f"{old}.*", f"{new}.*") for old, new in SECTION_ALIASES.items())
    pairs = sorted([*ALIASES.items(), *whole])
    return _table(("written", "read as"), ((f"`{old}`", f"`{new}`") for old, new in pairs))


def _answers() -> Iterator[str]:
    words = {"replaced": "replaced", "no_effect": "no effect", "refused": "refused"}
    rows = ((" ".join(f"`{key}`" for key in rule.keys), words[rule.kind], rule.instead, rule.real) for rule in RULES)
    return _table(("keys", "", "what happens, or what is missing", "what to do"), rows)


def _value(value: object) -> str:
    """A default as code, or in words where it is words."""
    return value if isinstance(value, str) and (" " in value or "`" in value or value == "required") else f"`{value}`"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(with_tables(path.read_text("utf-8")), "utf-8")
