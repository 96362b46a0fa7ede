"""Arithmetic word problems: a seeded generator of train, validation and test sets.

Run as `python -m examples.calc.data --help`; `train.py` calls `generate`. Ten families of one to three operations,
half of them one-step, each in four wordings, plus two wordings kept for `test_unseen`.

What the splits share, by construction (a problem's own content decides where it may go, whatever the sizes):

- Numbers. A number of two or more digits with remainder 3 modulo 7 is *held out*: no train or val problem contains
  one, every test problem contains at least one. So no test problem has the numbers of a training problem.
- Names. The people of the test problems appear in no train or val problem.
- Items. A problem is about an item and a container (`eggs`, `jar`). The pairs of the test problems appear in no
  train or val problem, though each word does.
- Train and val draw from the same numbers, names and pairs, but never the same numbers together in one family.
- `test` and `test_unseen` differ in wording: no sentence template of `test_unseen` is used anywhere else.

A row is `{"id", "question", "answer", "family", "operations", "expression"}`; `answer` is a non-negative whole number
below 10,000, and `expression` takes the numbers in the order in which the question names them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from .calculator import calculate

Row = dict[str, Any]
Split = Literal["train", "val", "test", "test_unseen"]
Slots = dict[str, int]

# fmt: off
NAMES = [
    "Ada", "Ali", "Amy", "Ben", "Bob", "Cleo", "Dan", "Dora", "Ella", "Emil", "Eva", "Finn", "Gus", "Hana",
    "Hugo", "Ida", "Ivan", "Jack", "Jane", "Kai", "Kim", "Lara", "Leo", "Lily", "Luis", "Mara", "Max", "Mia",
    "Nina", "Noah", "Omar", "Otto", "Pia", "Ravi", "Rosa", "Ruth", "Sam", "Sara", "Sven", "Tara", "Theo", "Tom",
    "Uma", "Vera", "Wim", "Yuki", "Zara", "Zoe",
]
TEST_NAMES = [
    "Alma", "Bela", "Carl", "Elio", "Gina", "Hans", "Iris", "Jonas", "Lena", "Milo", "Nora", "Olga", "Paul",
    "Rita", "Till", "Yara",
]
ITEMS = [
    "apples", "beads", "books", "buttons", "candles", "cards", "eggs", "keys", "lemons", "nuts", "pens",
    "shells", "stamps", "stones",
]
# fmt: on
CONTAINERS = (
    ("box", "boxes"),
    ("bag", "bags"),
    ("jar", "jars"),
    ("tin", "tins"),
    ("tray", "trays"),
    ("crate", "crates"),
    ("basket", "baskets"),
    ("drawer", "drawers"),
)
UNITS = (
    ("costs", "dollars", "cents", 100),
    ("measures", "meters", "centimeters", 100),
    ("weighs", "kilos", "grams", 1000),
    ("takes", "hours", "minutes", 60),
)


def is_held_out(number: int) -> bool:
    """Whether only test problems may contain `number`."""
    return number >= 10 and number % 7 == 3


def is_test_pair(item: str, container: str) -> bool:
    """Whether only test problems may be about this item and this container (singular)."""
    place = [singular for singular, _ in CONTAINERS].index(container)
    return (ITEMS.index(item) + place) % 4 == 0


@dataclass(frozen=True)
class Family:
    """Problems with one expression: how to draw its numbers and how to word it."""

    name: str
    expression: str
    draw: Callable[[random.Random], Slots]
    wordings: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def operations(self) -> int:
        return len(re.findall(r" [-+*/] ", self.expression))


def _big(rng: random.Random) -> int:
    return rng.randint(10, 99)


def _few(rng: random.Random) -> int:
    return rng.randint(2, 9)


def _sum(rng: random.Random) -> Slots:
    return {"a": _big(rng), "b": rng.randint(2, 99)}


def _difference(rng: random.Random) -> Slots:
    a = rng.randint(20, 99)
    return {"a": a, "b": rng.randint(2, a - 1)}


def _quotient(rng: random.Random) -> Slots:
    b = _few(rng)
    return {"a": b * _big(rng), "b": b}


def _product(rng: random.Random) -> Slots:
    return {"a": _few(rng), "b": _big(rng)}


def _sum_less(rng: random.Random) -> Slots:
    slots = _sum(rng)
    return {**slots, "c": rng.randint(2, min(99, slots["a"] + slots["b"] - 1))}


def _packs(rng: random.Random) -> Slots:
    a, b, c = rng.randint(2, 49), rng.randint(2, 49), _few(rng)
    return {"a": a, "b": b, "c": c, "d": rng.randint(2, min(99, (a + b) * c - 1))}


# {N} a name, {I} items, {B} a container, {P} several of them; {V}, {L}, {S} and {f} are the columns of `UNITS`.
FAMILIES = (
    Family(
        "add",
        "{a} + {b}",
        _sum,
        (
            "{N} has {a} {I} in a {B} and adds {b}. How many {I} now?",
            "A {B} holds {a} {I}. {N} puts in {b} more. How many {I} now?",
            "{N} finds {a} {I} and then {b} more in a {B}. How many {I} in all?",
            "There are {a} {I} in a {B} and {b} with {N}. How many in all?",
        ),
        (
            "{N} puts {a} {I} in a {B} and finds {b} more. How many in all?",
            "There are {a} {I} in a {B}. {N} adds {b} more. How many now?",
        ),
    ),
    Family(
        "subtract",
        "{a} - {b}",
        _difference,
        (
            "{N} has {a} {I} in a {B} and sells {b}. How many {I} are left?",
            "A {B} holds {a} {I}. {N} takes out {b}. How many are left?",
            "{N} finds {a} {I} in a {B} and loses {b}. How many {I} now?",
            "There are {a} {I} in a {B}. {N} sells {b}. How many {I} are left?",
        ),
        (
            "{N} has a {B} with {a} {I} and takes out {b}. How many {I} now?",
            "There are {a} {I} in a {B}. {N} loses {b}. How many are left?",
        ),
    ),
    Family(
        "share",
        "{a} / {b}",
        _quotient,
        (
            "{N} splits {a} {I} evenly into {b} {P}. How many {I} in each?",
            "There are {a} {I} for {b} equal {P}. How many does {N} put in each?",
            "{N} packs {a} {I} evenly into {b} {P}. How many are in each {B}?",
            "{a} {I} fill {b} equal {P}. How many does {N} put in each {B}?",
        ),
        (
            "{N} packs {a} {I} into {b} equal {P}. How many {I} in each {B}?",
            "There are {a} {I} for {N}, evenly split into {b} {P}. How many in each?",
        ),
    ),
    Family(
        "extra_add",
        "{a} + {b}",
        lambda rng: {"x": _few(rng), **_sum(rng)},
        (
            "{N} is {x} years old, has {a} {I} in a {B} and adds {b}. How many {I} now?",
            "A {B} for {x} coins holds {a} {I}. {N} puts in {b} more. How many {I} now?",
            "After {x} days {N} finds {a} {I} in a {B} and {b} more. How many {I} in all?",
            "{N} is {x} years old. There are {a} {I} in a {B} and {b} more. How many in all?",
        ),
        (
            "After {x} days {N} has {a} {I} in a {B} and adds {b} more. How many in all?",
            "A {B} for {x} coins holds {a} {I}. {N} adds {b}. How many now?",
        ),
    ),
    Family(
        "extra_subtract",
        "{a} - {b}",
        lambda rng: {"x": _few(rng), **_difference(rng)},
        (
            "{N} is {x} years old, has {a} {I} in a {B} and sells {b}. How many {I} are left?",
            "A {B} for {x} coins holds {a} {I}. {N} takes out {b}. How many are left?",
            "After {x} days {N} finds {a} {I} in a {B} and loses {b}. How many {I} now?",
            "{N} is {x} years old. Of {a} {I} in a {B}, {b} are sold. How many are left?",
        ),
        (
            "After {x} days {N} has {a} {I} in a {B} and takes out {b}. How many now?",
            "A {B} for {x} coins holds {a} {I}. {N} loses {b}. How many {I} are left?",
        ),
    ),
    Family(
        "product",
        "{a} * {b}",
        _product,
        (
            "{N} has {a} {P} with {b} {I} in each. How many {I} in all?",
            "Each of {a} {P} holds {b} {I}. How many {I} does {N} have?",
            "{N} fills {a} {P} with {b} {I} each. How many {I} in all?",
            "There are {a} {P} of {b} {I} each. How many does {N} have?",
        ),
        (
            "There are {a} {P} with {b} {I} in each. How many {I} does {N} have?",
            "{N} has {a} {P} of {b} {I} each. How many in all?",
        ),
    ),
    Family(
        "add_subtract",
        "{a} + {b} - {c}",
        _sum_less,
        (
            "{N} has {a} {I} in a {B}, adds {b} and sells {c}. How many {I} are left?",
            "A {B} holds {a} {I}. {N} puts in {b} more, then takes out {c}. How many now?",
            "{N} finds {a} {I} and then {b} more in a {B}, but loses {c}. How many {I} now?",
            "There are {a} {I} in a {B} and {b} with {N}, and {c} are sold. How many are left?",
        ),
        (
            "{N} puts {a} {I} in a {B}, finds {b} more and sells {c}. How many are left?",
            "There are {a} {I} in a {B}. {N} adds {b}, but then loses {c}. How many {I} now?",
        ),
    ),
    Family(
        "product_add",
        "{a} * {b} + {c}",
        lambda rng: {**_product(rng), "c": rng.randint(2, 99)},
        (
            "{N} has {a} {P} with {b} {I} in each and {c} more. How many {I} in all?",
            "Each of {a} {P} holds {b} {I}. {N} finds {c} more. How many {I} now?",
            "{N} fills {a} {P} with {b} {I} each and has {c} more. How many {I} in all?",
            "There are {a} {P} of {b} {I} each and {c} with {N}. How many in all?",
        ),
        (
            "There are {a} {P} with {b} {I} in each. {N} finds {c} more. How many in all?",
            "{N} has {a} {P} of {b} {I} each and adds {c} more. How many {I} now?",
        ),
    ),
    Family(
        "units",
        "{a} * {f} + {b}",
        lambda rng: {"a": _few(rng), "b": rng.randint(10, 59)},
        (
            "A {B} of {I} {V} {a} {L} and {b} {S} for {N}. How many {S}?",
            "{N} has a {B} of {I} that {V} {a} {L} and {b} {S}. How many {S} in all?",
            "For {N} each {B} with {I} {V} {a} {L} {b} {S}. How many {S}?",
            "The {B} of {I} that {N} has {V} {a} {L} and {b} {S}. How many {S}?",
        ),
        (
            "A {B} of {I} that {N} sells {V} {a} {L} and {b} {S}. How many {S} in all?",
            "{N} has a {B} with {I} that {V} {a} {L} {b} {S}. How many {S}?",
        ),
    ),
    Family(
        "packs",
        "({a} + {b}) * {c} - {d}",
        _packs,
        (
            "{N} puts {a} red and {b} blue {I} in each of {c} {P} and sells {d}. How many are left?",
            "With {a} red and {b} blue {I} in each of {c} {P}, {N} loses {d}. How many {I} now?",
            "{N} packs {a} old and {b} new {I} into each of {c} {P}, but takes out {d}. How many are left?",
            "There are {a} old and {b} new {I} in each of {c} {P}. {N} sells {d}. How many {I} are left?",
        ),
        (
            "There are {a} red and {b} blue {I} in each of {c} {P}. {N} loses {d}. How many {I} now?",
            "{N} puts {a} old and {b} new {I} in each of {c} {P}, but sells {d}. How many are left?",
        ),
    ),
)


def split_of(family: Family, numbers: Mapping[str, int]) -> Literal["train", "val", "test"]:
    """The one split that may hold these numbers in this family."""
    if any(is_held_out(number) for number in numbers.values()):
        return "test"
    key = f"{family.name} {' '.join(map(str, numbers.values()))}"
    return "val" if zlib.crc32(key.encode()) % 8 == 0 else "train"


def problems(split: Split, count: int, seed: int) -> list[Row]:
    """`count` different problems of a split, the families in turn, so that each has its equal share.

    Raises:
        ValueError: there aren't as many different problems.
    """
    rng = random.Random(f"{seed} {split}")
    rows: list[Row] = []
    seen: set[str] = set()
    for index in range(count):
        family = FAMILIES[index % len(FAMILIES)]
        for _ in range(1000):
            question, expression = _draw(family, split, rng)
            if question not in seen:
                break
        else:
            raise ValueError(f"`{split}` can't have {count} different problems; ask for fewer")
        seen.add(question)
        rows.append(
            {
                "id": f"{split}-{index}",
                "question": question,
                "answer": int(calculate(expression)),
                "family": family.name,
                "operations": family.operations,
                "expression": expression,
            }
        )
    rng.shuffle(rows)
    return rows


def _draw(family: Family, split: Split, rng: random.Random) -> tuple[str, str]:
    tests = split in ("test", "test_unseen")
    numbers = family.draw(rng)
    while split_of(family, numbers) != ("test" if tests else split):
        numbers = family.draw(rng)
    item, (container, containers) = rng.choice(ITEMS), rng.choice(CONTAINERS)
    while is_test_pair(item, container) != tests:
        item, (container, containers) = rng.choice(ITEMS), rng.choice(CONTAINERS)
    verb, large, small, factor = rng.choice(UNITS)
    wording = rng.choice(family.unseen if split == "test_unseen" else family.wordings)
    words = {"N": rng.choice(TEST_NAMES if tests else NAMES), "I": item, "B": container, "P": containers}
    question = wording.format(**words, **numbers, V=verb, L=large, S=small)
    return question, family.expression.format(**numbers, f=factor)


def vocabulary() -> Iterator[str]:
    """Texts with every word a question may contain, each before, after and between the others as questions have it.

    For training a tokenizer. No problem of any split is among them.
    """
    fill = {"N": "Ada", "I": "eggs", "B": "jar", "P": "jars", "V": "costs", "L": "dollars", "S": "cents"}
    numbers = dict.fromkeys("abcdx", 1)
    for family, slot in product(FAMILIES, fill):
        options: dict[str, list[str]] = {
            "N": [*NAMES, *TEST_NAMES],
            "I": ITEMS,
            "B": [one for one, _ in CONTAINERS],
            "P": [several for _, several in CONTAINERS],
            "V": [unit[0] for unit in UNITS],
            "L": [unit[1] for unit in UNITS],
            "S": [unit[2] for unit in UNITS],
        }
        for wording, word in product((*family.wordings, *family.unseen), options[slot]):
            yield wording.format(**{**fill, slot: word}, **numbers)


def generate(
    seed: int, n_train: int, n_val: int, n_test: int, n_unseen: int, out_dir: str | os.PathLike[str]
) -> dict[Split, Path]:
    """Write `train.jsonl`, `val.jsonl`, `test.jsonl` and `test_unseen.jsonl`, one JSON row a line.

    Each file appears whole or not at all. The same seed and sizes write the same bytes.

    Args:
        seed: Decides all that is random.
        n_train, n_val, n_test, n_unseen: Problems in each file.
        out_dir: Created where it is missing.

    Returns:
        The path of each split.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[Split, int] = {"train": n_train, "val": n_val, "test": n_test, "test_unseen": n_unseen}
    paths: dict[Split, Path] = {}
    for split, size in sizes.items():
        paths[split] = folder / f"{split}.jsonl"
        write_jsonl(paths[split], problems(split, size, seed))
    return paths


def write_jsonl(path: Path, rows: list[Row]) -> None:
    """Write rows as JSON lines; a reader sees the old file or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, path)


def read_jsonl(path: str | os.PathLike[str]) -> list[Row]:
    """The rows that `write_jsonl` wrote."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.calc.data", description="Write arithmetic word problems.")
    parser.add_argument("out_dir", help="folder for train, val, test and test_unseen .jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=4000, help="number of training problems (default %(default)s)")
    parser.add_argument("--val", type=int, default=100, help="number of validation problems (default %(default)s)")
    parser.add_argument("--test", type=int, default=500, help="number of test problems (default %(default)s)")
    parser.add_argument("--unseen", type=int, default=200, help="the same in unseen wordings (default %(default)s)")
    args = parser.parse_args()
    for path in generate(args.seed, args.train, args.val, args.test, args.unseen, args.out_dir).values():
        print(path)


if __name__ == "__main__":
    main()
