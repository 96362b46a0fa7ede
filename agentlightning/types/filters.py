"""How rows are filtered and sorted: the dictionaries that Agent-Lightning 0.3 exports from its types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class FilterField(TypedDict, total=False):
    """What one field of a row must be; all keys that are given must hold."""

    exact: Any
    within: Sequence[Any]
    contains: str


FilterOptions = Mapping[str, FilterField | Literal["and", "or"] | Mapping[str, FilterField]]
"""Field -> condition. `_aggregate` says how conditions combine, those under `_must` hold in any case."""


class SortOptions(TypedDict):
    """By which field, and in which direction."""

    name: str
    order: Literal["asc", "desc"]
