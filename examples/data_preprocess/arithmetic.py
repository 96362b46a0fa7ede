"""Sums made on the spot, for machines without the hub and for first runs: same rows, same reward rule as GSM8K.

python -m examples.data_preprocess.arithmetic --local_save_dir data/arithmetic --size 200
"""

from __future__ import annotations

import random

if __package__:
    from .common import Row, command, make_row, parser, write
else:  # run as a file
    from common import Row, command, make_row, parser, write

SOURCE = "agentlightning/arithmetic"
INSTRUCTION = 'End with the result after "####".'
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
TEST_SHARE = 5
"""Every so manieth question is for the test."""


def questions(largest: int, seed: int) -> list[tuple[str, int]]:
    """Every question with numbers up to `largest`, each once, in an order that `seed` decides; and its result."""
    numbers = range(largest + 1)
    made = [(f"What is {a} {sign} {b}?", do(a, b)) for sign, do in OPERATIONS.items() for a in numbers for b in numbers]
    random.Random(seed).shuffle(made)
    return made


def rows(size: int, largest: int, seed: int) -> dict[str, list[Row]]:
    """`size` rows in all, by split."""
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    for number, (question, result) in enumerate(questions(largest, seed)[:size]):
        split = "test" if number % TEST_SHARE == 0 else "train"
        index = len(splits[split])
        splits[split].append(make_row(SOURCE, split, index, question, f"#### {result}", str(result), INSTRUCTION))
    return splits


def main(arguments: list[str] | None = None) -> None:
    made = parser("arithmetic", "Write generated sums as train.parquet and test.parquet.", "~/data/arithmetic")
    made.add_argument("--size", type=int, default=200, help="rows in all, default %(default)s")
    made.add_argument("--largest", type=int, default=20, help="largest number in a question, default %(default)s")
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args(arguments)
    most = len(OPERATIONS) * (options.largest + 1) ** 2
    if not 2 <= options.size <= most:
        made.error(f"--size must be from 2 to {most}, the number of questions with numbers up to {options.largest}")
    write(options.local_save_dir, rows(options.size, options.largest, options.seed))


if __name__ == "__main__":
    command(main)
