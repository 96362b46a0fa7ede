"""Each parser on good bytes, and on bytes that were spoilt without knowing what they are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .targets import TARGETS, run
from .world import EXAMPLES


@pytest.mark.parametrize("name", TARGETS)
def test_good_bytes_are_taken(name: str) -> None:
    function, good = TARGETS[name]
    for data in good:
        function(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=3 * EXAMPLES)
@given(data=st.data())
def test_any_bytes_are_taken_or_refused(name: str, data: st.DataObject) -> None:
    spoilt = bytearray(data.draw(st.sampled_from(TARGETS[name][1])))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(spoilt)))
        spoilt[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    run(name, bytes(spoilt))
    run(name, data.draw(st.binary(max_size=50)))
