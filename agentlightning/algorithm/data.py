"""Datasets from files: JSONL, JSON (a list) and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from agentlightning.types import DatasetError


def load_dataset(paths: str | Path | Sequence[str | Path]) -> list[Any]:
    """All rows of one or several files, in order.

    Args:
        paths: Files ending in `.jsonl`, `.json` or `.parquet`.

    Raises:
        DatasetError: a file is missing, is not what its ending says, or holds no rows.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    rows = [row for file in files for row in _read(Path(file).expanduser())]
    if not rows:
        raise DatasetError(f"no rows in {', '.join(f'`{file}`' for file in files)}; a dataset needs at least one task")
    return rows


def _read(path: Path) -> list[Any]:
    if not path.is_file():
        raise DatasetError(f"dataset `{path}` is not a file; give the path of a .jsonl, .json or .parquet file")
    if path.suffix == ".jsonl":
        return [
            _parse(path, line, number) for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()
        ]
    if path.suffix == ".json":
        rows = _parse(path, path.read_bytes(), 1)
        if not isinstance(rows, list):
            raise DatasetError(f"dataset `{path}` holds a JSON {type(rows).__name__}; it must be a list of tasks")
        return rows
    if path.suffix == ".parquet":
        return _read_parquet(path)
    raise DatasetError(f"dataset `{path}` ends in `{path.suffix}`; `.jsonl`, `.json` and `.parquet` can be read")


def _parse(path: Path, text: bytes, line: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DatasetError(f"dataset `{path}`, line {line + error.lineno - 1}: not JSON ({error.msg})") from error


def _read_parquet(path: Path) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError(f"reading `{path}` needs pyarrow: pip install 'agentlightning[verl]'") from error
    try:
        names = pyarrow.parquet.read_schema(path).names
        if twice := [name for name in names if names.count(name) > 1]:
            raise DatasetError(f"dataset `{path}` has the column `{twice[0]}` twice; rename or remove one")
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DatasetError(f"dataset `{path}` is not a Parquet file: {error}") from error
