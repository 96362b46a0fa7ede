"""Datasets from files, and what is said of files that can't be read."""

import json

import pytest

from agentlightning.algorithm.data import load_dataset
from agentlightning.types import DatasetError

ROWS = [{"q": "1+1", "a": 2}, {"q": "2+2", "a": 4}]


def test_reads_jsonl_json_and_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.json", "c.parquet"):
        assert load_dataset(tmp_path / name) == ROWS
    assert load_dataset([tmp_path / "a.jsonl", str(tmp_path / "b.json")]) == ROWS * 2


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.jsonl", '{"q": 1}\n{"q": \n', r"a.jsonl`, line 2: not JSON"),
        ("a.json", "{}", r"holds a JSON dict; it must be a list"),
        ("a.json", "[1,", r"not JSON"),
        ("a.txt", "x", r"ends in `.txt`"),
        ("a.jsonl", "\n", r"no rows"),
        ("a.parquet", "x", r"not a Parquet file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=match):
        load_dataset(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nothing.jsonl` is not a file"):
        load_dataset(tmp_path / "nothing.jsonl")
