"""Spans as rows, straight from JSON: a third of the time that their models take. Called by `spans` for its bulk route.

Only what looks exactly as our client writes it is taken so. Anything else goes through the models, which convert it or
say what is wrong with it.
"""

from __future__ import annotations

import base64
from itertools import product
from operator import itemgetter
from typing import Any, Final, cast, get_args

import orjson

from agentlightning.types import StatusCode, TokenCall

from ..rows import LARGEST_SEQUENCE_ID, SpanRow, span_row
from ..wire import SPANS, parse

_CODES: Final = frozenset(get_args(StatusCode))
_PLAIN_STATUS: Final = {code: orjson.dumps({"status_code": code, "description": None}).decode() for code in _CODES}
_NO_RESOURCE: Final = orjson.dumps({"attributes": {}, "schema_url": ""}).decode()
_PLAIN: Final = frozenset({str, bool, int})
_SCALARS: Final = SpanRow._fields[: SpanRow._fields.index("status")]
"""The first columns of a row, which have a type each."""
_scalars: Final = itemgetter(*_SCALARS)
_others: Final = itemgetter("attributes", "status", "resource", "events", "links", "token_call")
_TYPES: Final = frozenset(
    (str, str, int, str, str, parent, str, start, end)
    for parent, start, end in product((str, type(None)), (float, type(None)), (float, type(None)))
)
_LONG: Final = 2.0**63
"""orjson reads integers beyond 64 bits as floats."""


def read_span_rows(body: bytes) -> list[SpanRow]:
    """The rows of a JSON list of spans.

    Raises:
        ValidationError: it is none; says which field is wrong.
    """
    try:
        items = orjson.loads(body)
        _require(type(items) is list)
        return [_row(item) for item in items]
    except (LookupError, TypeError, ValueError):  # unusual, or wrong: the models know
        return [span_row(span) for span in parse(SPANS, body)]


def _row(item: dict[str, Any]) -> SpanRow:
    scalars: tuple[Any, ...] = _scalars(item)
    attributes, status, resource, events, links, call = _others(item)
    _require(tuple(map(type, scalars)) in _TYPES and 0 <= scalars[2] <= LARGEST_SEQUENCE_ID)
    _require(events == [] and links == [])
    rest = (
        _status(status["status_code"], status["description"]),
        orjson.dumps(_attributes(attributes)).decode(),
        "[]",
        "[]",
        _resource(resource["attributes"], resource["schema_url"]),
        None if call is None else TokenCall.from_bytes(base64.b64decode(call)).to_bytes(),
    )
    return SpanRow._make(scalars + rest)


def _status(code: Any, description: Any) -> str:
    if description is None and code in _PLAIN_STATUS:
        return _PLAIN_STATUS[code]
    _require(code in _CODES and (description is None or isinstance(description, str)))
    return orjson.dumps({"status_code": code, "description": description}).decode()


def _resource(attributes: Any, schema_url: Any) -> str:
    if attributes == {} and schema_url == "":
        return _NO_RESOURCE
    _require(type(schema_url) is str)
    return orjson.dumps({"attributes": _attributes(attributes), "schema_url": schema_url}).decode()


def _attributes(values: Any) -> dict[str, Any]:
    _require(type(values) is dict)
    attributes = cast(dict[str, Any], values)
    if not _PLAIN.issuperset(map(type, attributes.values())):
        _require(all(map(_fine, attributes.values())))
    return attributes


def _fine(value: Any) -> bool:
    """Whether a value may be an attribute, and is what was sent."""
    values = cast(list[Any], value) if isinstance(value, list) else [value]
    kinds = set(map(type, values))
    return len(kinds) <= 1 and (kinds <= _PLAIN or (kinds == {float} and all(abs(each) < _LONG for each in values)))


def _require(usual: bool) -> None:
    if not usual:
        raise ValueError("not as our client writes it")
