"""Orders at a depot: what the planner reads, the plan that is right, and the door that the goods must go to.

Called by `train.py` and `agent.py`. An order names goods and a packing; the goods have a kind (`cold`, `dry`,
`fragile`, `risky`), the packing a size (`small`, `big`), and each kind and size has a door of its own.

    Ada sends two pallets of butter to Oslo.    ->    plan `cold big`    ->    door `B`

The demonstrations are by imperfect people: planners who call most fragile goods dry and most risky goods cold, and
workers who take most big goods to the door for small ones. A model that imitates them is wrong in half of the cases
when it decodes greedily, and right in one of three when it samples; reinforcement learning can amplify that. But as
long as one of the two calls different goods the same, or takes two plans to one door, the other can't make up for it.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator
from typing import Any, Literal

GOODS = {
    "cold": ("butter", "cheese", "fish", "milk", "peas", "yoghurt"),
    "dry": ("beans", "flour", "pasta", "rice", "sugar", "tea"),
    "fragile": ("bowls", "cups", "lamps", "mirrors", "plates", "vases"),
    "risky": ("acid", "bleach", "fuel", "glue", "matches", "paint"),
}
PACKINGS = {"small": ("bags", "boxes", "cans", "trays"), "big": ("barrels", "containers", "crates", "pallets")}
DOORS = dict(zip(itertools.product(GOODS, PACKINGS), "ABCDEFGH", strict=True))
"""By kind and size of goods."""
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo")
CITIES = ("Bern", "Cairo", "Delhi", "Lima", "Oslo", "Paris", "Quito", "Rome")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDINGS = (
    "{name} sends {number} {packing} of {goods} to {city}.",
    "{number} {packing} of {goods} for {name} in {city}.",
    "{city}: {name} wants {number} {packing} of {goods}.",
)

CALLED = {"fragile": "dry", "risky": "cold"}
"""What mistaken planners call goods of a kind."""
ERROR_RATE = 0.65
"""Share of mistaken demonstrations where there are any."""

Split = Literal["train", "val", "test"]


def orders(split: Split, count: int, seed: int) -> list[dict[str, Any]]:
    """Tasks: `request` is what the planner reads, `plan` and `door` are right. All kinds and sizes come equally often.

    Goods in a certain packing are all in one split: those of the test orders are never trained on.
    """
    rng = random.Random(f"{seed} {split}")
    rows = [_order(split, kind, size, rng) for (kind, size), _ in zip(itertools.cycle(DOORS), range(count))]
    rng.shuffle(rows)
    return rows


def _order(split: Split, kind: str, size: str, rng: random.Random) -> dict[str, Any]:
    pairs = [(goods, packing) for goods in GOODS[kind] for packing in PACKINGS[size]]
    goods, packing = rng.choice([pair for pair in pairs if split_of(*pair) == split])
    request = rng.choice(WORDINGS).format(
        goods=goods, packing=packing, name=rng.choice(NAMES), city=rng.choice(CITIES), number=rng.choice(NUMBERS)
    )
    return {"request": request, "plan": f"{kind} {size}", "door": DOORS[kind, size]}


def split_of(goods: str, packing: str) -> Split:
    """The one split that holds these goods in this packing."""
    return ("train", "train", "train", "val", "test")[zlib.crc32(f"{goods} {packing}".encode()) % 5]


def plans(rows: list[dict[str, Any]], seed: int) -> list[tuple[str, str]]:
    """(request, plan) as the demonstrating planners write it, for each order."""
    rng = random.Random(f"{seed} plans")
    found: list[tuple[str, str]] = []
    for row in rows:
        kind, size = row["plan"].split()
        called = CALLED.get(kind, kind) if rng.random() < ERROR_RATE else kind
        found.append((row["request"], f"{called} {size}"))
    return found


def moves(count: int, seed: int) -> list[tuple[str, str]]:
    """(plan, door) as the demonstrating workers go, all plans in turn."""
    rng = random.Random(f"{seed} moves")
    found: list[tuple[str, str]] = []
    for (kind, size), _ in zip(itertools.cycle(DOORS), range(count)):
        taken = "small" if size == "big" and rng.random() < ERROR_RATE else size
        found.append((f"{kind} {size}", DOORS[kind, taken]))
    return found


def vocabulary() -> Iterator[str]:
    """Texts with every word of every order, plan and door, for a tokenizer."""
    words = {"name": NAMES, "number": NUMBERS, "city": CITIES}
    words["packing"] = sum(PACKINGS.values(), ())
    words["goods"] = sum(GOODS.values(), ())
    shown = {slot: values[0] for slot, values in words.items()}
    for wording, (slot, values) in itertools.product(WORDINGS, words.items()):
        yield from (wording.format(**{**shown, slot: value}) for value in values)
    yield from (f"{kind} {size}" for kind, size in DOORS)
    yield from DOORS.values()
