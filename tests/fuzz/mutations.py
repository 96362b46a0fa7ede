"""Any JSON, and good JSON that was spoilt here and there: what most bugs are found with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

LIKELY = [
    0,
    1,
    -1,
    2**31,
    2**63,
    1e308,
    "",
    "x",
    "auto",
    "none",
    "user",
    "tool",
    "assistant",
    [],
    {},
    [[]],
    [{}],
    [None],
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(LIKELY)
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within a value."""
    found = [path]
    if isinstance(value, dict):
        for key in value:
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            found += places(each, (*path, at))
    return found


@st.composite
def spoilt(draw: st.DrawFn, good: Any, names: Sequence[str] = ()) -> Any:
    """`good` with up to three changes: a value replaced, left out, doubled, moved, or a field of `names` added."""
    value = copy.deepcopy(draw(good) if isinstance(good, st.SearchStrategy) else good)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        kind = draw(st.sampled_from(["replace", "remove", "double", "move", "add"]))
        if not path:
            if kind == "add" and names and isinstance(value, dict):
                value[draw(st.sampled_from(names))] = copy.deepcopy(draw(ANY))
            elif kind == "replace":
                value = copy.deepcopy(draw(ANY))
            continue
        holder = value
        for step in path[:-1]:
            holder = holder[step]
        _change(draw, value, holder, path[-1], kind, names)
    return value


def _change(draw: st.DrawFn, whole: Any, holder: Any, key: Any, kind: str, names: Sequence[str]) -> None:
    if kind == "remove":
        del holder[key]
    elif kind == "double" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == "move":
        other = whole
        for step in draw(st.sampled_from(places(whole))):
            other = other[step]
        holder[key] = copy.deepcopy(other)
    elif kind == "add" and isinstance(holder, dict) and names:
        holder[draw(st.sampled_from(names))] = copy.deepcopy(draw(ANY))
    else:
        holder[key] = copy.deepcopy(draw(ANY))  # what is drawn may be shared
