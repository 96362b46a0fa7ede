"""The problems are right, seeded, and the splits share nothing that they should not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from examples.calc import data
from examples.calc.calculator import calculate
from examples.calc.data import CONTAINERS, FAMILIES, ITEMS, NAMES, TEST_NAMES, generate, problems, read_jsonl

SIZES = {"train": 4000, "val": 300, "test": 600, "test_unseen": 300}
SINGULAR = {form: one for one, several in CONTAINERS for form in (one, several)}


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, Any]]]:
    return {split: problems(split, size, seed=0) for split, size in SIZES.items()}  # type: ignore[arg-type]


def words(question: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", question))


def numbers(question: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", question)]


def name(question: str) -> str:
    (found,) = words(question) & {*NAMES, *TEST_NAMES}
    return found


def pair(question: str) -> tuple[str, str]:
    (item,), (container,) = words(question) & set(ITEMS), {SINGULAR[w] for w in words(question) & set(SINGULAR)}
    return item, container


def wording(question: str) -> str:
    """The question with its name, numbers, item, container and units taken out."""
    question = re.sub(r"\d+", "#", question)
    stock = [*NAMES, *TEST_NAMES, *ITEMS, *SINGULAR, "costs", "dollars", "cents", "measures", "meters", "centimeters"]
    stock += ["weighs", "kilos", "grams", "takes", "hours", "minutes"]
    takes_out = question.replace("takes out", "takes_out")
    return re.sub(rf"\b({'|'.join(stock)})\b", "_", takes_out)


def test_answers_follow_from_expressions_and_questions(splits: dict[str, list[dict[str, Any]]]) -> None:
    for rows in splits.values():
        for row in rows:
            assert str(row["answer"]) == calculate(row["expression"])
            assert 0 <= row["answer"] < 10_000
            asked, used = numbers(row["question"]), numbers(row["expression"])
            if row["family"] == "units":
                used.pop(1)  # the factor between the units, which nobody says
            if row["family"].startswith("extra"):
                asked.pop(0)
            assert asked == used
            assert row["operations"] == len(re.findall(r" [-+*/] ", row["expression"]))


def test_every_problem_is_asked_once(splits: dict[str, list[dict[str, Any]]]) -> None:
    rows = [row for split in splits.values() for row in split]
    assert len({row["question"] for row in rows}) == len({row["id"] for row in rows}) == sum(SIZES.values())


def test_families_have_equal_shares_and_half_are_single_steps(splits: dict[str, list[dict[str, Any]]]) -> None:
    for split, rows in splits.items():
        counts = Counter(row["family"] for row in rows)
        assert set(counts.values()) == {SIZES[split] / len(FAMILIES)}
    assert sum(family.operations == 1 and family.name != "product" for family in FAMILIES) == len(FAMILIES) / 2


def test_tests_have_numbers_that_training_never_saw(splits: dict[str, list[dict[str, Any]]]) -> None:
    seen = {n for split in ("train", "val") for row in splits[split] for n in numbers(row["question"])}
    for split in ("test", "test_unseen"):
        for row in splits[split]:
            assert set(numbers(row["question"])) - seen, row["question"]


def test_validation_has_combinations_of_numbers_that_training_never_saw(
    splits: dict[str, list[dict[str, Any]]],
) -> None:
    seen = {(row["family"], *numbers(row["question"])) for row in splits["train"]}
    assert not seen & {(row["family"], *numbers(row["question"])) for row in splits["val"]}


def test_tests_have_other_people_and_other_pairs_of_item_and_container(
    splits: dict[str, list[dict[str, Any]]],
) -> None:
    for look in (name, pair):
        known = {look(row["question"]) for split in ("train", "val") for row in splits[split]}
        asked = {look(row["question"]) for split in ("test", "test_unseen") for row in splits[split]}
        assert not known & asked
        assert len(asked) >= 16


def test_unseen_wordings_are_nowhere_else(splits: dict[str, list[dict[str, Any]]]) -> None:
    known = {wording(row["question"]) for split in ("train", "val", "test") for row in splits[split]}
    unseen = {wording(row["question"]) for row in splits["test_unseen"]}
    assert not known & unseen
    assert len(known) >= 4 * len(FAMILIES)
    assert len(unseen) >= 2 * len(FAMILIES)


def test_files_are_the_same_for_the_same_seed_and_hold_what_was_asked_for(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(seed, 50, 20, 30, 10, tmp_path / folder)
    files = ["test.jsonl", "test_unseen.jsonl", "train.jsonl", "val.jsonl"]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == files
    for file in files:
        first, again, other = ((tmp_path / folder / file).read_bytes() for folder in "abc")
        assert first == again != other
    assert [len(read_jsonl(tmp_path / "a" / file)) for file in files] == [30, 10, 50, 20]


def test_a_larger_training_set_leaves_the_other_splits_alone(tmp_path: Path) -> None:
    small, large = (generate(0, size, 20, 20, 20, tmp_path / str(size)) for size in (10, 100))
    for split in ("val", "test", "test_unseen"):
        assert small[split].read_bytes() == large[split].read_bytes()  # type: ignore[index]


def test_more_problems_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FAMILIES", [family for family in FAMILIES if family.name == "units"])
    monkeypatch.setattr(data, "NAMES", NAMES[:1])
    monkeypatch.setattr(data, "ITEMS", ITEMS[:1])
    with pytest.raises(ValueError, match="`val` can't have 20000 different problems"):
        problems("val", 20_000, seed=0)


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.calc.data", str(tmp_path), "--train", "10", "--val", "10"]
    done = subprocess.run(
        [*command, "--test", "10", "--unseen", "10", "--seed", "3"],
        cwd=Path(__file__).parents[3],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(tmp_path / f"{name}.jsonl") for name in SIZES]
    assert json.loads((tmp_path / "test.jsonl").read_text().splitlines()[0])["family"]
