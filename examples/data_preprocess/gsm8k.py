"""GSM8K (Cobbe et al., arXiv:2110.14168) as training rows: grade-school word problems with whole numbers as results.

python -m examples.data_preprocess.gsm8k --local_save_dir data/gsm8k
"""

from __future__ import annotations

import re

if __package__:
    from .common import Row, add_source, command, convert, field, make_row, parser, read_split, write
else:  # run as a file
    from common import Row, add_source, command, convert, field, make_row, parser, read_split, write

SOURCE = "openai/gsm8k"
INSTRUCTION = 'Think step by step, and end with the result after "####", as in "#### 42".'
_CALCULATIONS = re.compile(r"<<[^<>]*>>")
"""The calculator's notes in the reference answers, which a model need not imitate."""


def row(split: str, index: int, given: Row) -> Row | None:
    """A row of the data set (`question`, `answer`) as a training row; `None` where the answer has no result."""
    answer = _CALCULATIONS.sub("", field(given, ["answer"], index))
    _, mark, truth = answer.rpartition("#### ")
    if not mark:
        return None
    truth = truth.strip().replace(",", "")
    return make_row(SOURCE, split, index, field(given, ["question"], index), answer, truth, INSTRUCTION)


def main(arguments: list[str] | None = None) -> None:
    made = parser("gsm8k", "Write GSM8K as train.parquet and test.parquet.", "~/data/gsm8k")
    add_source(made)
    options = made.parse_args(arguments)
    write(
        options.local_save_dir,
        {
            split: convert(
                read_split(options.local_dataset_path, SOURCE, split, "main"),
                lambda i, r, split=split: row(split, i, r),
            )
            for split in ("train", "test")
        },
    )


if __name__ == "__main__":
    command(main)
