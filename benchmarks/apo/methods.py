"""What is compared: each method is a driver with settings, for all budgets or for each. Read by `compare.py`.

The peers' best settings were chosen on the tuning families by `compare.py --tune` (gepa with four seeds; upstream, a
run of which takes thirty times as long, one): for each budget the one of the grid with the highest mean gain there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common import BUDGETS

ROOT: Final = Path(__file__).parents[2]
OURS, UPSTREAM, GEPA = "ours.py", "peer_upstream.py", "peer_gepa.py"
PYTHONS: Final = {
    OURS: ROOT / ".venv" / "bin" / "python",
    UPSTREAM: ROOT / ".peers" / "agentlightning-apo" / "bin" / "python",
    GEPA: ROOT / ".peers" / "gepa" / "bin" / "python",
}
"""Driver -> who runs it."""
IMPORTS: Final = {
    OURS: ("agentlightning.algorithm.apo", "agentlightning.store.client", "openai"),
    UPSTREAM: ("agentlightning.algorithm.apo", "agentops", "openai"),
    GEPA: ("gepa",),
}
"""Driver -> what takes long to import and starts no threads."""
THIRD: Final = 410
"""A third of what upstream's defaults spend."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """One row of the tables."""

    name: str
    driver: str
    settings: Settings | dict[int, Settings]
    """One for all budgets, or by budget."""
    budgets: tuple[int, ...] = BUDGETS

    def runs(self) -> list[tuple[Settings, tuple[int, ...]]]:
        """Settings, and the budgets that one process with them gives figures for."""
        if not all(isinstance(key, int) for key in self.settings) or not self.settings:
            return [(self.settings, self.budgets)]
        groups: dict[str, list[int]] = {}
        for budget, settings in self.settings.items():
            groups.setdefault(json.dumps(settings, sort_keys=True), []).append(int(budget))
        return [(json.loads(settings), tuple(sorted(budgets))) for settings, budgets in groups.items()]


def _upstream(width: int, branch: int, gradient: int, batch: int, val: int, initial: bool) -> Settings:
    return {
        "beam_width": width,
        "branch_factor": branch,
        "gradient_batch_size": gradient,
        "val_batch_size": batch,
        "val": val,
        "run_initial_validation": initial,
        "beam_rounds": "fill",
        "shared": True,
    }


UPSTREAM_GRID: Final = tuple(
    _upstream(*each)
    for each in (
        (4, 4, 4, 16, 32, True),
        (4, 4, 4, 16, 32, False),
        (2, 2, 4, 10, 32, True),
        (2, 4, 4, 8, 32, False),
        (2, 2, 2, 8, 16, False),
        (1, 4, 4, 8, 32, False),
        (1, 2, 4, 16, 16, False),
        (2, 3, 3, 16, 32, False),
        (1, 8, 4, 8, 16, False),
        (3, 3, 4, 12, 24, False),
    )
)
"""Beam, branches, gradient batch, validation batch, validation tasks, initial validation; as many rounds as fit."""
GEPA_GRID: Final[tuple[Settings, ...]] = (
    {},
    {"reflection_minibatch_size": 5},
    {"reflection_minibatch_size": 8},
    {"candidate_selection_strategy": "current_best"},
    {"val": 16},
    {"val": 16, "reflection_minibatch_size": 5},
    {"val": 16, "candidate_selection_strategy": "current_best", "reflection_minibatch_size": 5},
    {"use_merge": True},
    {"val": 10},
    {"val": 24},
    {"val": 16, "acceptance_criterion": "improvement_or_equal"},
    {"val": 16, "use_merge": True},
    {"val": 16, "reflection_minibatch_size": 2},
    {"val": 16, "candidate_selection_strategy": "top_k_pareto"},
    {"val": 16, "candidate_selection_strategy": "epsilon_greedy"},
)
BEST_UPSTREAM: Final[dict[int, Settings]] = {
    150: UPSTREAM_GRID[3],
    300: UPSTREAM_GRID[6],
    600: UPSTREAM_GRID[8],
    1232: UPSTREAM_GRID[3],
}
BEST_GEPA: Final[dict[int, Settings]] = {
    150: {"val": 16},
    300: {"val": 16, "use_merge": True},
    600: {"val": 16, "use_merge": True},
    1232: {"val": 16, "reflection_minibatch_size": 2},
}

METHODS: Final = {
    method.name: method
    for method in (
        Method("auto", OURS, {"preset": "auto"}, (*BUDGETS, THIRD)),
        Method("documented", OURS, {"once": True}),
        Method("upstream", UPSTREAM, {}),
        Method("upstream, best", UPSTREAM, BEST_UPSTREAM),
        Method("gepa", GEPA, {}),
        Method("gepa, best", GEPA, BEST_GEPA),
        Method("our gepa", OURS, {"preset": "gepa"}),
        Method("our protegi", OURS, {"preset": "protegi"}),
    )
}
COMPARED: Final = ("auto", "documented", "upstream", "upstream, best", "gepa", "gepa, best")
"""What runs without `--only`."""
