"""Spans for the drivers, of the sizes that upstream's benchmark has."""

from __future__ import annotations

import random
import string
from typing import Any

import agentlightning as agl


def attribute_pool(size: int = 64) -> list[dict[str, str]]:
    """Attribute sets like upstream's: nested 1 to 3 deep, 2 to 6 keys a level, values of 5 to 300 characters."""
    draw = random.Random(7)

    def text(low: int, high: int) -> str:
        return "".join(draw.choices(string.ascii_letters, k=draw.randint(low, high)))

    def grow(prefix: str, depth: int) -> dict[str, str]:
        found: dict[str, str] = {}
        for _ in range(draw.randint(2, 6)):
            key = prefix + text(3, 20)
            found.update(grow(key + ".", depth - 1) if depth > 1 else {key: text(5, 300)})
        return found

    return [grow("", draw.randint(1, 3)) for _ in range(size)]


def make_span(rollout_id: str, attempt_id: str, sequence_id: int, attributes: dict[str, str]) -> Any:
    """A finished span for `add_span`."""
    ids = {"trace_id": f"{random.getrandbits(128):032x}", "span_id": f"{random.getrandbits(64):016x}"}
    return agl.Span.model_validate(
        {
            "rollout_id": rollout_id,
            "attempt_id": attempt_id,
            "sequence_id": sequence_id,
            **ids,
            "parent_id": None,
            "name": "benchmark",
            "status": {"status_code": "OK", "description": None},
            "attributes": attributes,
            "events": [],
            "links": [],
            "start_time": 1.0,
            "end_time": 2.0,
            "context": {**ids, "is_remote": False, "trace_state": {}},
            "parent": None,
            "resource": {"attributes": {}, "schema_url": ""},
        }
    )
