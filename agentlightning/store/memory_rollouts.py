"""`RolloutTable`: the rollouts of the memory home, by id and by status, in order of creation. `memory` uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain, islice
from typing import Final

from agentlightning.types import RolloutStatus

from .query import Filter, Page, Query, answer
from .rows import RolloutRow

SHORT: Final = 5
"""A shorter part of an id is found in so many of them that looking at each is faster."""


class RolloutTable:
    """Rows with a number each, which grows with the order of creation."""

    def __init__(self) -> None:
        self._rows: dict[int, RolloutRow] = {}
        self._numbers: dict[str, int] = {}
        self._next = 0
        self._by_status: dict[RolloutStatus, set[int]] = {}
        self._sorted: dict[RolloutStatus, list[int]] = {}
        """Numbers of a status in order; made when asked for, gone when one comes or goes."""
        self._text: str | None = None
        """All ids in order, each with a line end; made when asked for, gone when one comes or goes."""

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, rollout_id: str) -> RolloutRow | None:
        number = self._numbers.get(rollout_id)
        return None if number is None else self._rows[number]

    def some(self, rollout_ids: Iterable[str]) -> list[RolloutRow]:
        """Those that exist, in the order of the ids."""
        return [self._rows[number] for each in rollout_ids if (number := self._numbers.get(each)) is not None]

    def save(self, row: RolloutRow) -> None:
        number = self._numbers.get(row.rollout_id)
        if number is None:
            number = self._numbers[row.rollout_id] = self._next
            self._next += 1
            self._text = None
            self._add(row.status, number)
        elif (before := self._rows[number].status) != row.status:
            self._remove(before, number)
            self._add(row.status, number)
        self._rows[number] = row

    def drop(self, rollout_id: str) -> None:
        number = self._numbers.pop(rollout_id)
        self._remove(self._rows.pop(number).status, number)
        self._text = None

    def query(self, query: Query) -> Page[RolloutRow]:
        """As `query.answer`, looking only at rows that one of the filters leaves."""
        if not query.filters and query.sort_by is None:
            end = None if query.limit == -1 else query.offset + query.limit
            return Page(list(islice(self._rows.values(), query.offset, end)), len(self._rows))
        if query.logic == "and" or len(query.filters) == 1:
            for filter_ in sorted(query.filters, key=_cost):
                numbers = self._passing(filter_)
                if numbers is not None:
                    return self._answer(query, numbers)
        return answer(query, self._rows.values())

    def _answer(self, query: Query, numbers: list[int]) -> Page[RolloutRow]:
        """The page of rows, of which one filter has left these."""
        if query.sort_by is not None or len(query.filters) > 1:
            return answer(query, [self._rows[number] for number in numbers])
        end = None if query.limit == -1 else query.offset + query.limit
        return Page([self._rows[number] for number in numbers[query.offset : end]], len(numbers))

    def _passing(self, filter_: Filter) -> list[int] | None:
        """Numbers that a filter leaves, in order; `None` if to find out one has to look at all rows."""
        if filter_.field == "rollout_id":
            return self._with_ids(filter_.value) if filter_.test == "in" else self._with_part(filter_.value)
        return self._with_status(filter_.value) if (filter_.field, filter_.test) == ("status", "in") else None

    def _with_ids(self, rollout_ids: Collection[str]) -> list[int]:
        found = {number for each in rollout_ids if (number := self._numbers.get(each)) is not None}
        return sorted(found)

    def _with_part(self, part: str) -> list[int] | None:
        if len(part) < SHORT or "\n" in part:
            return None
        if self._text is None:
            self._text = "\n".join(self._numbers) + "\n"
        text, found = self._text, list[int]()
        at = text.find(part)
        while at != -1:
            end = text.index("\n", at)
            found.append(self._numbers[text[text.rfind("\n", 0, at) + 1 : end]])
            at = text.find(part, end + 1)
        return found

    def _with_status(self, statuses: Sequence[RolloutStatus]) -> list[int]:
        numbers = [self._in_order(status) for status in dict.fromkeys(statuses)]
        return numbers[0] if len(numbers) == 1 else sorted(chain.from_iterable(numbers))

    def _in_order(self, status: RolloutStatus) -> list[int]:
        numbers = self._sorted.get(status)
        if numbers is None:
            numbers = self._sorted[status] = sorted(self._by_status.get(status, ()))
        return numbers

    def _add(self, status: RolloutStatus, number: int) -> None:
        self._by_status.setdefault(status, set()).add(number)
        self._sorted.pop(status, None)

    def _remove(self, status: RolloutStatus, number: int) -> None:
        self._by_status[status].discard(number)
        self._sorted.pop(status, None)


def _cost(filter_: Filter) -> int:
    """Filters that leave few rows come first."""
    return (filter_.test != "in") + 2 * (filter_.field != "rollout_id")
