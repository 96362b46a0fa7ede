"""What counts as a dataset: anything with a length and rows by index."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class Dataset(Protocol[T_co]):
    """A list, a `torch` or Hugging Face dataset, or anything else with these two methods."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> T_co: ...
