"""`optim`: the optimizer of the policy or of the critic, and its schedule."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Strict, model_validator

from .base import NonNegative, Positive, Section, Share

OPTIMIZERS = (
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam", "RMSprop"),
    *("Rprop", "SGD"),
)
"""Optimizers of `torch.optim` that step on dense gradients without a closure."""
WITH_BETAS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam")
"""Those of them that take `betas`."""


class Optim(Section):
    """The optimizer and its schedule."""

    optimizer: str = "AdamW"
    """Optimizer, a class of `optimizer_impl`."""
    optimizer_impl: str = "torch.optim"
    """Module of optimizers: `torch.optim`, or an installed one that is made like it, such as `bitsandbytes.optim`."""
    lr: NonNegative = 1e-6
    """Learning rate after warm-up."""
    betas: Annotated[tuple[Share, Share], Strict(False)] = (0.9, 0.999)
    """Decay of the first and second moment, for optimizers that have them."""
    weight_decay: NonNegative = 0.01
    """Weight decay; decoupled from the gradient in AdamW."""
    override_optimizer_config: dict[str, Any] | None = None
    """More arguments of the optimizer's class, such as `{momentum: 0.9}` for SGD."""
    lr_warmup_steps: int = -1
    """Training steps of linear warm-up from 0; above 0 it wins over the ratio."""
    lr_warmup_steps_ratio: Share = 0.0
    """Warm-up as a share of all training steps."""
    lr_scheduler_type: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up."""
    min_lr_ratio: Share = 0.0
    """Where the cosine ends, as a share of `lr`."""
    num_cycles: Positive = 0.5
    """Cosine waves of the run; 0.5 goes down once."""
    total_training_steps: int = -1
    """Length of the schedule in training steps; -1 is the length of the run."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.optimizer_impl == "torch.optim" and self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"`optimizer` {self.optimizer!r} is none of `torch.optim`; possible: {', '.join(OPTIMIZERS)}"
            )
        return self


class CriticOptim(Optim):
    """The critic's optimizer and its schedule."""

    lr: NonNegative = 1e-5
    """Learning rate after warm-up."""
