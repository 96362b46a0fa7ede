"""What a run of prompt optimisation leaves for people, in `RUN/apo/`. `APO` calls `Report`.

best_prompt.txt      the best prompt; of several prompts best_<name>.txt each
best_prompt.json     the same with scores, held-out result and cost, for programs
report.html          one page without scripts or outside resources: result, cost, curve, lineage, difference, candidates
candidates.jsonl     every candidate, a line each
scores.png, lineage.png   the two pictures of the page, made when the run ends
"""

from __future__ import annotations

from .facts import Facts, HeldOut, Row, bounds_of, facts_of
from .files import Report

__all__ = ["Facts", "HeldOut", "Report", "Row", "bounds_of", "facts_of"]
