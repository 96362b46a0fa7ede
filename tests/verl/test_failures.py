"""Why a step could not learn, in words that say what to do."""

from __future__ import annotations

import pytest

from agentlightning.types import TrainingError
from agentlightning.verl.collect import Collected
from agentlightning.verl.failures import FailedSteps

from .rollouts import sample


def failed(*errors: str) -> Collected:
    return Collected([sample(0, at, [], None, status="failed", error=error) for at, error in enumerate(errors)])


DIVERGED = "InternalServerError: Error code: 500 - the model's output is not a number: weights version 1 diverged"


def test_weights_that_diverged_end_the_run_at_once_with_advice() -> None:
    with pytest.raises(TrainingError) as caught:
        FailedSteps().count(failed(DIVERGED, DIVERGED), last=False)
    message = str(caught.value)
    assert message.startswith("nothing could be learned in this step: 2 of 2 rollouts failed with: InternalServerError")
    assert "lower `actor_rollout_ref.actor.optim.lr`, or `actor_rollout_ref.actor.grad_clip`" in message


def test_other_failures_may_pass_and_get_no_such_advice(caplog: pytest.LogCaptureFixture) -> None:
    steps = FailedSteps()
    steps.count(failed("A: x", "A: x", "B: y"), last=False)
    assert "3 of 3 rollouts failed, 2 of them with: A: x" in caplog.text
    with pytest.raises(TrainingError, match=r"in 2 steps in a row: the only rollout failed with: A: x$"):
        steps.count(failed("A: x"), last=False)
