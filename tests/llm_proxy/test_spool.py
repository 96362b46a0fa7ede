"""The spool's file: order, what a crash leaves, who may open it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from agentlightning.llm_proxy.spool import FILE, Spool
from agentlightning.types import ConfigError

A, B = ("ro-1", "at-1"), ("ro-2", "at-2")


def texts(spool: Spool, count: int = 100, size: int = 10**6) -> list[bytes]:
    return [entry.spans for entry in spool.first(count, size)]


def test_calls_come_out_in_the_order_in_which_they_went_in(tmp_path: Path):
    spool = Spool(tmp_path)
    assert len(spool) == 0
    assert not spool
    spool.append([(A, b"one"), (B, b"two")])
    (third,) = spool.append([(A, b"three")])
    assert texts(spool) == [b"one", b"two", b"three"]
    assert [entry[1:3] for entry in spool.first(100, 10**6)] == [A, B, A]
    assert spool.counts() == {A: 2, B: 1}
    spool.remove([entry.number for entry in spool.first(2, 10**6)])
    assert texts(spool) == [b"three"]
    spool.remove([])
    assert len(spool) == 1
    spool.remove([third])
    assert (len(spool), texts(spool), spool.counts()) == (0, [], {})
    spool.close()


def test_as_many_are_read_as_asked_for_and_at_least_one(tmp_path: Path):
    spool = Spool(tmp_path)
    spool.append([(A, b"x" * 10) for _ in range(5)])
    assert len(texts(spool, count=3)) == 3
    assert len(texts(spool, size=25)) == 3
    assert len(texts(spool, size=1)) == 1
    spool.append([(B, b"y")])  # no reading stays open
    spool.close()


def test_another_gateway_finds_what_waits(tmp_path: Path):
    spool = Spool(tmp_path / "made" / "here")
    spool.append([(A, b"one"), (B, b"two")])
    spool.close()
    spool = Spool(tmp_path / "made" / "here")
    assert (len(spool), texts(spool), spool.counts()) == (2, [b"one", b"two"], {A: 1, B: 1})
    spool.close()


def test_it_remembers_when_it_was_made(tmp_path: Path):
    spool = Spool(tmp_path)
    made = spool.made
    spool.close()
    spool = Spool(tmp_path)
    assert spool.made == made
    spool.close()


def test_two_gateways_can_not_share_a_directory(tmp_path: Path):
    spool = Spool(tmp_path)
    with pytest.raises(ConfigError, match=r"`spool_dir` '.*' is in use by another gateway; give each one a directory"):
        Spool(tmp_path)
    spool.append([(A, b"one")])
    with pytest.raises(ConfigError, match="in use by another gateway"):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()


def test_what_is_no_spool_is_refused(tmp_path: Path):
    (tmp_path / FILE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigError, match=r"`spool.sqlite` in `spool_dir` '.*' can't be read .*; move it away"):
        Spool(tmp_path)


def test_a_directory_that_can_not_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Spool(tmp_path / "file" / "spool")


@pytest.mark.parametrize("torn", [1, 3000, 5000])
def test_a_record_that_was_torn_is_not_there_and_those_before_it_are(tmp_path: Path, torn: int):
    """As after a crash: the files as they are while the spool is open, the last record without its end."""
    spool = Spool(tmp_path / "first")
    for number in range(10):
        spool.append([(A, b"%d" % number * 3000)])
    (tmp_path / "second").mkdir()
    for name in (FILE, f"{FILE}-wal"):
        shutil.copy(tmp_path / "first" / name, tmp_path / "second")
    wal = tmp_path / "second" / f"{FILE}-wal"
    wal.write_bytes(wal.read_bytes()[:-torn])
    found = texts(copy := Spool(tmp_path / "second"))
    assert found == [b"%d" % number * 3000 for number in range(9)]
    assert copy.append([(A, b"ten")]) == [10]
    copy.close()
    spool.close()


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path):
    spool = Spool(tmp_path)
    spool.append([(A, b"one")])
    spool._db.execute("PRAGMA max_page_count=20")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(sqlite3.OperationalError, match="full"):
        spool.append([(A, b"small"), (A, b"x" * 10**6)])
    assert (len(spool), texts(spool)) == (1, [b"one"])
    spool.append([(B, b"two")])
    spool.remove([1])
    assert texts(spool) == [b"two"]
    spool.close()


def test_an_empty_spool_is_small_again(tmp_path: Path):
    spool = Spool(tmp_path)
    numbers = spool.append([(A, b"x" * 10**6) for _ in range(8)])
    spool.remove(numbers)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10**6
    spool.append([(A, b"again")])
    assert texts(spool) == [b"again"]
    spool.close()
