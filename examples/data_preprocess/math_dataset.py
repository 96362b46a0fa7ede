r"""MATH (Hendrycks et al., arXiv:2103.03874) as training rows: competition problems with boxed results.

python -m examples.data_preprocess.math_dataset --local_save_dir data/math
"""

from __future__ import annotations

from agentlightning.verl.reward.answers import boxed

if __package__:
    from .common import Row, add_source, command, convert, field, make_row, parser, read_split, write
else:  # run as a file
    from common import Row, add_source, command, convert, field, make_row, parser, read_split, write

SOURCE = "DigitalLearningGmbH/MATH-lighteval"
INSTRUCTION = r"Think step by step, and put the final result in \boxed{}."


def row(split: str, index: int, given: Row) -> Row | None:
    """A row of the data set (`problem`, `solution`) as a training row; `None` where the solution has no box."""
    solution = field(given, ["solution"], index)
    truth = boxed(solution)
    if truth is None:
        return None
    return make_row(SOURCE, split, index, field(given, ["problem"], index), solution, truth, INSTRUCTION)


def main(arguments: list[str] | None = None) -> None:
    made = parser("math_dataset", "Write MATH as train.parquet and test.parquet.", "~/data/math")
    add_source(made)
    options = made.parse_args(arguments)
    write(
        options.local_save_dir,
        {
            split: convert(
                read_split(options.local_dataset_path, SOURCE, split), lambda i, r, split=split: row(split, i, r)
            )
            for split in ("train", "test")
        },
    )


if __name__ == "__main__":
    command(main)
