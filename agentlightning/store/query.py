"""What a query asks for, checked once for all homes, and how the memory home answers it.

`home` builds a `Query` from the arguments of a `query_*` method; a ledger answers it. Ties and `sort_by=None` follow
the order of creation; `None` sorts before every value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel

from agentlightning.types import PaginatedResult

from .base import FilterLogic, SortOrder

Kind = Literal["rollouts", "attempts", "spans", "resources", "workers"]
LARGEST: Final = 2**53
"""Of a limit or offset: larger numbers don't fit into every home's integers."""
R = TypeVar("R", bound=tuple[Any, ...])
T = TypeVar("T")


class Filter(NamedTuple):
    field: str
    test: Literal["in", "contains"]
    value: Any
    """A sequence for `in`, a string for `contains`."""


class Query(NamedTuple):
    kind: Kind
    scope: dict[str, str]
    """Fields that must equal these values, whatever `logic` is."""
    filters: tuple[Filter, ...]
    logic: FilterLogic
    sort_by: str | None
    sort_order: SortOrder
    limit: int
    offset: int


class Page(NamedTuple, Generic[R]):
    rows: list[R]
    total: int


def make_query(
    kind: Kind,
    model: type[BaseModel],
    *,
    scope: dict[str, str] | None = None,
    equals: dict[str, str | None] | None = None,
    within: dict[str, Sequence[str] | None] | None = None,
    contains: dict[str, str | None] | None = None,
    filter_logic: FilterLogic = "and",
    sort_by: str | None,
    sort_order: SortOrder,
    limit: int,
    offset: int,
) -> Query:
    """Check the arguments of a `query_*` method and join them; a filter that is `None` does not filter.

    Raises:
        ValueError: a value that a query can't have; the message names the valid ones.
    """
    _one_of("filter_logic", filter_logic, ("and", "or"))
    _one_of("sort_order", sort_order, ("asc", "desc"))
    if sort_by is not None:
        _one_of("sort_by", sort_by, sorted(model.model_fields))
    if limit == 0 or not -1 <= limit <= LARGEST:
        raise ValueError(f"`limit` is {limit}; give the longest page you want (1 to {LARGEST}), or -1 for everything")
    if not 0 <= offset <= LARGEST:
        raise ValueError(f"`offset` is {offset}; give how many items to skip (0 to {LARGEST})")
    filters = [Filter(field, "in", (value,)) for field, value in (equals or {}).items() if value is not None]
    filters += [Filter(field, "in", tuple(value)) for field, value in (within or {}).items() if value is not None]
    filters += [Filter(field, "contains", value) for field, value in (contains or {}).items() if value is not None]
    return Query(kind, scope or {}, tuple(filters), filter_logic, sort_by, sort_order, limit, offset)


def answer(query: Query, rows: Iterable[R]) -> Page[R]:
    """The page of `rows`, which come in order of creation."""
    found = list(rows)
    scope = [Filter(field, "in", (value,)) for field, value in query.scope.items()]
    for filter_ in [*scope, *(query.filters if query.logic == "and" else ())]:
        found = _passing(filter_, found)
    if query.logic == "or" and query.filters:
        passing = {id(row) for filter_ in query.filters for row in _passing(filter_, found)}
        found = [row for row in found if id(row) in passing]
    if query.sort_by is not None and found:
        at = _position(found[0], query.sort_by)
        found.sort(key=lambda row: _sort_key(row[at]), reverse=query.sort_order == "desc")
    end = None if query.limit == -1 else query.offset + query.limit
    return Page(found[query.offset : end], len(found))


def page_model(query: Query, items: list[T], total: int) -> PaginatedResult[T]:
    """The page as callers of the store get it."""
    return PaginatedResult[T].model_construct(items=items, limit=query.limit, offset=query.offset, total=total)


def _passing(filter_: Filter, rows: list[R]) -> list[R]:
    if not rows:
        return rows
    at = _position(rows[0], filter_.field)  # by position: this loop is what a query of the memory home costs
    if filter_.test == "in":
        wanted = frozenset(filter_.value)
        return [row for row in rows if row[at] in wanted]
    return [row for row in rows if row[at] is not None and filter_.value in row[at]]


def _position(row: tuple[Any, ...], field: str) -> int:
    fields: tuple[str, ...] = getattr(row, "_fields")  # noqa: B009  # rows are named tuples
    return fields.index(field)


def _sort_key(value: Any) -> tuple[Any, ...]:
    return (0,) if value is None else (1, value)


def _one_of(field: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ValueError(f"`{field}` is {value!r}; give one of {', '.join(valid)}")
