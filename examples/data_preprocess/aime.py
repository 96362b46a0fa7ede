"""AIME, the American Invitational Mathematics Examination, as rows to measure on: results are whole numbers to 999.

python -m examples.data_preprocess.aime --year 2024 --local_save_dir data/aime
"""

from __future__ import annotations

if __package__:
    from .common import Row, add_source, command, convert, field, make_row, parser, read_split, write
else:  # run as a file
    from common import Row, add_source, command, convert, field, make_row, parser, read_split, write

HUB = {2024: ("Maxwell-Jia/AIME_2024", "train"), 2025: ("math-ai/aime25", "test")}
"""By year: data set and split on the hub. There is nothing to train on."""
INSTRUCTION = 'Think step by step. The last line of your answer is "Answer: " and the result alone.'


def row(year: int, index: int, given: Row) -> Row:
    """A row of the data set as one of ours. Column names differ from copy to copy: `problem` and `Problem` alike."""
    truth = field(given, ["answer", "Answer"], index).strip()
    solution = str(given.get("solution") or given.get("Solution") or "")
    answer = f"{solution}\n\nAnswer: {truth}".lstrip()
    question = field(given, ["problem", "Problem", "question"], index)
    return make_row(f"aime{year}", "test", index, question, answer, truth, INSTRUCTION)


def main(arguments: list[str] | None = None) -> None:
    made = parser("aime", "Write AIME as test.parquet.", "~/data/aime")
    made.add_argument("--year", type=int, choices=sorted(HUB), default=2024)
    add_source(made)
    options = made.parse_args(arguments)
    name, split = HUB[options.year]
    rows = read_split(options.local_dataset_path, name, split)
    write(options.local_save_dir, {"test": convert(rows, lambda index, given: row(options.year, index, given))})


if __name__ == "__main__":
    command(main)
