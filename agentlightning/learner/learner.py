"""`Learner`: one model, its optimizer, and the one training step that every algorithm shares.

Called by the loops in `verl/` and `algorithm/sft`. It knows nothing of agents or rewards: rows carry advantages and
weights, the objective says how they become a loss. The model's parameters are the very ones that the native engine
samples from, so a step is all it takes to publish new weights. `value.Critic` is the same step with another output.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from agentlightning.types import TrainingError
from agentlightning.types.tokens import Float32

from .batch import Row, tokens_of
from .forward import Recomputation, Statistics, cpu_threads, micro_batches, policy_logprobs, policy_statistics
from .gradients import PolicyReader, Reader, accumulate
from .objectives import Objective
from .optimizer import Masters, OptimizerConfig, make_optimizer
from .schedule import Schedule

__all__ = ["MAX_BAD_STEPS", "Learner", "OptimizerConfig"]

MAX_BAD_STEPS = 5
"""Steps in a row with a loss or gradient that is not finite after which training stops."""


class Learner:
    """Trains `model` in place.

    Args:
        model: A Hugging Face causal LM loaded by `inference.loading`; parameters without `requires_grad` stay as they
            are.
        optimizer: Settings of the optimizer.
        schedule: Learning-rate multiplier by step.
        token_budget: Longest micro-batch in tokens; a longer single row stands alone.
        threads: CPU threads of a step; `None`: as many as there are physical cores. The engine has its own number.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.

    Raises:
        ConfigError: the optimizer can't be made, or the model can't recompute activations.
    """

    prefix: ClassVar[str] = "actor"
    """First part of the names of the metrics."""

    def __init__(
        self,
        model: Any,
        *,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        token_budget: int = 8192,
        threads: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.model = model
        self.config = optimizer
        self.schedule = schedule
        self.token_budget = token_budget
        self.threads = threads
        self.steps = 0
        """How often `advance` was called: the position in the schedule."""
        self._bad_steps = 0
        self._recomputation = Recomputation(model.get_decoder()) if gradient_checkpointing else None
        self._masters = Masters({name: p for name, p in self._named_parameters() if p.requires_grad})
        self.parameters = self._masters.stepped
        """What the optimizer steps, by name: the model's own parameters, or their fp32 copies (`masters`)."""
        self.optimizer = make_optimizer(optimizer, list(self.parameters.values()))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.parameters.values())).device

    @property
    def masters(self) -> Mapping[str, Tensor]:
        """fp32 copies of the parameters that are in half precision. Write into them to restore a checkpoint."""
        return self._masters.copies

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.config.lr * self.schedule(self.steps)

    def advance(self) -> None:
        """Move the schedule on by one step."""
        self.steps += 1

    def update(self, rows: Sequence[Row], objective: Objective) -> dict[str, float]:
        """One optimizer step on a mini-batch.

        The gradient does not depend on how the rows are split into micro-batches, whatever the loss: one that is no
        sum over tokens (`objective.local` is false) is evaluated on all tokens at once. A step with a loss or gradient
        that is not finite is left out and counted (`actor/skipped_nonfinite`).

        Returns:
            `actor/loss` and its parts, `actor/grad_norm`, `actor/lr`, and the objective's metrics as means over the
            trained tokens of `rows`.

        Raises:
            TrainingError: too many steps in a row were not finite.
        """
        with self._computing():
            batches = [micro for micro in micro_batches(rows, self.token_budget, self.device) if len(micro[1])]
            tally = accumulate(self._reader(), tokens_of(rows, self.device), batches, objective)
            norm, finite = self._step(tally.loss)
        own = {"loss": tally.loss, "grad_norm": norm, "skipped_nonfinite": float(not finite), "lr": self.lr}
        metrics = tally.named(sum(row.trained for row in rows))
        return metrics | {f"{self.prefix}/{name}": value for name, value in own.items()}

    def outputs(self, rows: Sequence[Row], temperature: float = 1.0) -> list[Float32]:
        """What objectives see of each row as `outputs_N` under the present weights, (N,) per row: its log-probs."""
        with cpu_threads(self.threads):
            return policy_logprobs(self.model, rows, temperature, token_budget=self.token_budget, device=self.device)

    def logprobs(self, rows: Sequence[Row], temperature: float = 1.0) -> list[Float32]:
        """Log-probs of the trained tokens of each row under the present weights, (N,) per row."""
        return self.outputs(rows, temperature)

    def statistics(self, rows: Sequence[Row], temperature: float = 1.0) -> Statistics:
        """Log-probs, entropies and sums of squared probabilities under the present weights, (N,) per row each."""
        with cpu_threads(self.threads):
            return policy_statistics(self.model, rows, temperature, token_budget=self.token_budget, device=self.device)

    def _reader(self) -> Reader:
        """How objectives see the model."""
        return PolicyReader(self.model)

    def _named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return self.model.named_parameters()

    def _step(self, loss: float) -> tuple[float, bool]:
        """Clip the gradient and step, if all is finite; the norm before, and whether it was."""
        self._masters.collect()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip))
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr
            self.optimizer.step()
            self._masters.publish()
        self.optimizer.zero_grad(set_to_none=True)
        self._bad_steps = 0 if finite else self._bad_steps + 1
        if self._bad_steps >= MAX_BAD_STEPS:
            raise TrainingError(
                f"loss or gradient were not finite in {self._bad_steps} steps in a row (loss {loss:g}, norm {norm:g}); "
                f"lower `{self.prefix}.optim.lr` (now {self.lr:g}) or `{self.prefix}.grad_clip`, go back to an earlier "
                "checkpoint, or look for rewards that are not finite"
            )
        return norm, finite

    @contextmanager
    def _computing(self) -> Generator[None]:
        """Threads and recomputation for the time of a step."""
        with ExitStack() as stack:
            stack.enter_context(cpu_threads(self.threads))
            if self._recomputation is not None:
                stack.enter_context(self._recomputation())
            yield
