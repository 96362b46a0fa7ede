"""The families. `TUNING` is for choosing settings, ours and the peers'; `REPORT` is for the figures only."""

from __future__ import annotations

import functools
from typing import Final

from .families import Family, World

PAIR: Final = ("planner", "writer")

REPORT: Final = (
    Family("claims", 1, "all"),
    Family("ledger", 2, "share", rules=12, needs=(2, 4), feedback="named", tells=0.6),
    Family("triage", 3, "all", rules=6, feedback="vague", judge=True, needs=(1, 2)),
    Family("freight", 4, "most", rules=10, needs=(2, 4), feedback="none", sampled=True),
    Family("kitchen", 5, "share", rules=10, misleading=0.35, harm=0.25, forget=0.08),
    Family("archive", 6, "all", rules=14, skew=1.0, needs=(1, 2), judge=True, start_rules=2),
    Family("treaty", 7, "share", rules=6, components=PAIR, needs=(1, 2)),
    Family("survey", 8, "all", rules=5, components=PAIR, needs=(1, 1), sampled=True, without=(0.3, 0.6)),
    Family("plant", 9, "most", rules=8, needs=(2, 3), judge=True, lose=0.1, slip=0.06, repeat=0.15),
    Family("library", 10, "share", rules=8, feedback="none", persistence=0.7, without=(0.0, 0.2)),
)
TUNING: Final = (
    Family("harbour", 101, "all", needs=(1, 3), feedback="named", tells=0.7),
    Family("bakery", 102, "share", rules=11, needs=(2, 4), feedback="vague", misleading=0.2),
    Family("clinic", 103, "all", rules=7, feedback="none", needs=(1, 2), sampled=True),
    Family("museum", 104, "most", rules=9, needs=(2, 4), judge=True, forget=0.07, repeat=0.12),
    Family("railway", 105, "share", rules=6, components=PAIR, needs=(1, 2), feedback="named", misleading=0.25),
    Family("notary", 106, "all", rules=13, skew=1.0, needs=(1, 2), lose=0.08, slip=0.05, start_rules=2),
)
FAMILIES: Final = {family.name: family for family in (*REPORT, *TUNING)}
TUNING_SEEDS: Final = range(900, 910)
REPORT_SEEDS: Final = range(10)


@functools.cache
def world(name: str) -> World:
    """The family of that name; `KeyError` where there is none."""
    return World(FAMILIES[name])
