"""The sentences of this world: what an instruction can say, and what only fills the page. Used by `families`."""

from __future__ import annotations

from typing import Final

_ASPECTS = (
    "dates units totals currency sources greeting rounding tables quotes names addresses codes deadlines risks limits "
    "fees taxes owners versions links colours sizes weights routes seats rooms shifts permits doses symptoms allergies "
    "brands models plates policies claims refunds invoices discounts orders parcels stocks suppliers meters tariffs "
    "readings alarms tickets outages patches backups clauses parties damages penalties signatures exhibits grades "
    "topics references equations proofs axioms margins captions headings footnotes"
)
ASPECTS: Final = tuple(_ASPECTS.split())
"""What an answer can get right or wrong. A rule is about one of them."""

PHRASINGS: Final = (
    "State the {} explicitly in the answer.",
    "Check the {} twice before you answer.",
    "Always give the {} in full.",
    "Never leave the {} out.",
)
"""Ways to ask for an aspect. How well each works differs from rule to rule."""

HARMFUL: Final = (
    "Answer in one word only.",
    "Guess when the case is unclear.",
    "Skip whatever looks like a detail.",
    "Answer as fast as you can.",
    "Prefer a short answer to a complete one.",
    "Do not read the case to its end.",
    "Leave figures to the reader.",
    "Repeat the question instead of an answer when in doubt.",
)
"""Advice that sounds like advice and does damage."""

FILLERS: Final = (
    "Be as helpful as you can.",
    "Think about the reader.",
    "Keep a friendly tone.",
    "Take a deep breath first.",
    "You are known for your excellent work.",
    "Make the result look professional.",
    "Use plain language.",
    "Consider the matter from all sides.",
    "Stay focused on the goal.",
    "Aim for the best possible quality.",
)
"""Advice that does nothing but take room."""

OPENING: Final = "Do what the case below asks for."
BRACES: Final = 'Answer like {"answer": "..."}.'
"""An editor's slip: as an f-string template it can't be filled in."""


def plain(line: str) -> str:
    """A line of a prompt without its bullet or number, to be looked up."""
    return line.strip().lstrip("-*0123456789.) \t").lower()
