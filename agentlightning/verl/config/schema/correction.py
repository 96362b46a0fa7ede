"""`algorithm.rollout_correction`: what is done where the sampler's log-probs and the learner's differ."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator

from .base import Section

REJECTIONS = (
    *("token_k1", "token_k2", "token_k3"),
    *("seq_sum_k1", "seq_sum_k2", "seq_sum_k3"),
    *("seq_mean_k1", "seq_mean_k2", "seq_mean_k3"),
    *("seq_max_k2", "seq_max_k3"),
)
"""What tokens or rollouts can be rejected by."""


def _plain(value: Any) -> Any:
    """Numbers as floats. True is no threshold, though Python counts it as 1."""
    if isinstance(value, bool):
        raise ValueError("a threshold is a number, or text such as '0.5_2.0'")
    return float(value) if isinstance(value, int) else value


Threshold = Annotated[float | str, BeforeValidator(_plain)]


def bounds(threshold: float | str) -> tuple[float | None, float]:
    """`2.0` or `"2.0"` as (None, 2.0), `"0.5_2.0"` as (0.5, 2.0).

    Raises:
        ValueError: it is neither, or a bound is not above 0, or they are the wrong way round.
    """
    try:
        numbers = [float(part) for part in str(threshold).split("_")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 < number < float("inf") for number in numbers):
        raise ValueError(f"{threshold!r} is no threshold; write a number above 0, or two as in '0.5_2.0'")
    if numbers != sorted(numbers):
        raise ValueError(f"{threshold!r} has its lower bound above the upper one; write them the other way round")
    return (numbers[0] if len(numbers) == 2 else None), numbers[-1]


class RolloutCorrection(Section):
    """Importance weights and rejection against the gap between sampler and learner."""

    rollout_is: Literal["token", "sequence"] | None = None
    """Weigh each token's loss by the learner's probability over the sampler's: of the `token`, or of its whole
    `sequence` (rollout); null does not."""
    rollout_is_threshold: Threshold = 2.0
    """Largest weight: larger ones are cut to it. Text `low_high`, such as `0.5_2.0`: those outside become 0."""
    rollout_is_batch_normalize: bool = False
    """Divide the weights by their mean."""
    rollout_rs: str | None = None
    """Leave out tokens or rollouts whose gap is too large: `token_`, `seq_sum_`, `seq_mean_` or `seq_max_` and `k1`,
    `k2` or `k3`, such as `seq_mean_k3`; several with commas, all of which must pass."""
    rollout_rs_threshold: Threshold | None = None
    """How large: one for all, or one each with commas. For `k1` a ratio or `low_high`, else the largest value."""
    bypass_mode: bool = False
    """Take the sampler's log-probs for the old ones, without a forward pass for them; `loss_type` is then the loss."""
    loss_type: Literal["ppo_clip", "reinforce"] = "ppo_clip"
    """Loss of `bypass_mode`: PPO's clipped surrogate, or REINFORCE with the importance weights."""

    def _rejections(self) -> list[tuple[str, tuple[float | None, float]]]:
        """Each option of `rollout_rs` with its bounds."""
        if self.rollout_rs is None:
            return []
        names = [name.strip() for name in self.rollout_rs.split(",")]
        limits = [part.strip() for part in str(self.rollout_rs_threshold).split(",")]
        return list(zip(names, map(bounds, limits * len(names) if len(limits) == 1 else limits), strict=True))

    @field_validator("rollout_is_threshold")
    @classmethod
    def _bounded(cls, value: float | str) -> float | str:
        bounds(value)
        return value

    @field_validator("rollout_rs")
    @classmethod
    def _options(cls, value: str | None) -> str | None:
        for name in value.split(",") if value is not None else ():
            if name.strip() not in REJECTIONS:
                raise ValueError(f"{name.strip()!r} is no way to reject; possible: {', '.join(REJECTIONS)}")
        return value

    @model_validator(mode="after")
    def _threshold_for_each(self) -> Self:
        if self.rollout_rs is None:
            return self
        if self.rollout_rs_threshold is None:
            raise ValueError("`rollout_rs` needs `rollout_rs_threshold`, such as 2.0")
        options, limits = self.rollout_rs.split(","), str(self.rollout_rs_threshold).split(",")
        if len(limits) not in (1, len(options)):
            raise ValueError(
                f"`rollout_rs_threshold` has {len(limits)} values for the {len(options)} options of `rollout_rs`; "
                "give one, or one each"
            )
        for name, (low, _) in self._rejections():
            if low is not None and not name.endswith("k1"):
                raise ValueError(f"`rollout_rs_threshold` has two bounds for '{name}', which has only an upper one")
        return self
