"""What the scripts of this folder share: the command line, where rows come from, the row format, the files written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from agentlightning.algorithm.data import load_dataset
from agentlightning.types import AgentLightningError, DatasetError

Row = dict[str, Any]
ENDINGS = (".parquet", ".jsonl", ".json")


def parser(prog: str, description: str, directory: str) -> argparse.ArgumentParser:
    """The flags that all scripts have."""
    made = argparse.ArgumentParser(prog=f"python -m examples.data_preprocess.{prog}", description=description)
    made.add_argument("--local_save_dir", type=Path, default=Path(directory), help="default %(default)s")
    made.add_argument("--local_dir", type=Path, dest="local_save_dir", help="old name of --local_save_dir")
    return made


def add_source(made: argparse.ArgumentParser) -> None:
    """The flag for a copy of the data on this machine."""
    made.add_argument(
        "--local_dataset_path",
        type=Path,
        help="a file with rows (.parquet, .jsonl, .json), or a directory with `<split>*` files; else the hub is asked, "
        "which needs the package `datasets`",
    )


def read_split(local: Path | None, hub_name: str, split: str, subset: str | None = None) -> list[Row]:
    """The rows of a split, from a local copy or the hub.

    Args:
        local: A file, or a directory that holds `<split>*.{parquet,jsonl,json}` at any depth.
        hub_name: Of the data set on the hub.
        split: `train` or `test`.
        subset: The configuration on the hub.

    Raises:
        DatasetError: there are no such rows.
    """
    if local is not None:
        local = local.expanduser()
        files = (
            sorted(path for path in local.rglob(f"{split}*") if path.suffix in ENDINGS) if local.is_dir() else [local]
        )
        if not files:
            raise DatasetError(f"`{local}` holds no `{split}*` file that ends in {', '.join(ENDINGS)}")
        return load_dataset(files)
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DatasetError(
            f"`{hub_name}` is read from the hub by `datasets`: pip install datasets, or give a copy on this machine "
            "with `--local_dataset_path`"
        ) from error
    return list(datasets.load_dataset(hub_name, subset, split=split))


def field(row: Row, names: Sequence[str], index: int) -> str:
    """The first column of `names` that the row has, as text.

    Raises:
        DatasetError: it has none of them.
    """
    for name in names:
        if row.get(name) is not None:
            return str(row[name])
    raise DatasetError(f"row {index} has none of the columns {', '.join(names)}; it has {', '.join(row)}")


def make_row(source: str, split: str, index: int, question: str, answer: str, truth: str, instruction: str) -> Row:
    """A row for both kinds of training: `prompt` and `reward_model` for RL, `messages` for fine-tuning.

    Args:
        source: `data_source`, which chooses the reward rule.
        split: Of the data set.
        index: Within the split.
        question: The question alone.
        answer: A worked answer, as a model should give it.
        truth: The result alone.
        instruction: How to write the result, appended to the question.
    """
    prompt = [{"role": "user", "content": f"{question} {instruction}"}]
    return {
        "data_source": source,
        "prompt": prompt,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": split, "index": index, "question": question, "answer": answer},
        "messages": [*prompt, {"role": "assistant", "content": answer}],
    }


def command(main: Callable[[], None]) -> None:
    """Run a script: what the user can mend is one line and exit code 2."""
    try:
        main()
    except AgentLightningError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def write(directory: Path, splits: dict[str, list[Row]]) -> None:
    """Write `<split>.parquet` for each split, and say so."""
    directory = directory.expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"can't make the directory `{directory}`: {error}; set `--local_save_dir`") from error
    for split, rows in splits.items():
        path = directory / f"{split}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        print(f"{path}: {len(rows)} rows")


def convert(rows: Iterable[Row], make: Callable[[int, Row], Row | None]) -> list[Row]:
    """The rows that `make` could use; says how many it could not.

    Raises:
        DatasetError: it could use none.
    """
    made = [make(index, row) for index, row in enumerate(rows)]
    kept = [row for row in made if row is not None]
    if not kept:
        raise DatasetError("no row has a result; are these the right files?")
    if len(kept) < len(made):
        print(f"{len(made) - len(kept)} of {len(made)} rows have no result and are left out")
    return kept
