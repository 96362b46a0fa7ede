"""DAPO's penalty for long answers, by hand."""

from __future__ import annotations

import pytest

from agentlightning.verl.reward import overlong_penalty


@pytest.mark.parametrize(
    ("length", "factor", "penalty"),
    # At most 20 tokens, of which the last 4 are the buffer: it starts behind token 16.
    [(0, 1, 0.0), (16, 1, 0.0), (17, 1, -0.25), (18, 1, -0.5), (20, 1, -1.0), (24, 1, -2.0), (18, 3, -1.5)],
)
def test_the_penalty_grows_in_the_buffer(length: int, factor: float, penalty: float) -> None:
    assert overlong_penalty(length, 20, 4, factor) == penalty


@pytest.mark.parametrize(("longest", "buffer"), [(20, 0), (20, 21), (20, -1)])
def test_a_buffer_that_does_not_fit_is_refused(longest: int, buffer: int) -> None:
    with pytest.raises(ValueError, match=f"`buffer_len` {buffer}"):
        overlong_penalty(1, longest, buffer)
