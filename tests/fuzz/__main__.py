"""Run one parser under atheris: `python -m tests.fuzz TARGET [libFuzzer options]`, as in `-max_total_time=60`.

What was found to reach new code is kept in `.fuzz/TARGET`, and is where the next run begins.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports]

with atheris.instrument_imports(include=["agentlightning"]):
    from .targets import TARGETS, run


def main(name: str, options: list[str]) -> None:
    """Fuzz until a failure or until the options say that it is enough."""
    corpus = Path(".fuzz") / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(TARGETS[name][1]):
        (corpus / f"seed-{number}").write_bytes(data)
    atheris.Setup([name, *options, str(corpus)], lambda data: run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz TARGET [libFuzzer options]; targets: {', '.join(TARGETS)}")
    main(sys.argv[1], sys.argv[2:])
