"""`Learner`: one policy, its optimizer, and the one training step that every algorithm shares.

Called by the loops in `verl/` and `algorithm/sft`. It knows nothing of agents or rewards: rows carry advantages and
weights, the objective says how they become a loss. The model's parameters are the very ones that the native engine
samples from, so a step is all it takes to publish new weights.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from agentlightning.inference.attention import lm_head_bias, lm_head_weight, packed_hidden_states
from agentlightning.types import TrainingError
from agentlightning.types.tokens import Float32

from .batch import MicroBatch, Row, pack, plan
from .logprob import token_logprobs
from .objectives import Objective
from .schedule import Schedule

MAX_BAD_STEPS = 5
"""Steps in a row with a gradient that is not finite after which training stops."""


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """AdamW and what surrounds it; names and defaults as verl's `actor.optim` and `actor.grad_clip`."""

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    grad_clip: float = 1.0


class Learner:
    """Trains `model` in place.

    Args:
        model: A Hugging Face causal LM loaded by `inference.loading`.
        optimizer: Settings of AdamW.
        schedule: Learning-rate multiplier by step.
        token_budget: Longest micro-batch in tokens; a longer single row stands alone.
        threads: CPU threads of a step; `None`: as many as there are physical cores. The engine has its own number.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, a third more time.
    """

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
        self.threads = threads or psutil.cpu_count(logical=False) or 1
        self.steps = 0
        """How often `advance` was called: the position in the schedule."""
        self._bad_steps = 0
        self._checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=optimizer.lr * schedule(0),
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.parameters.values())).device

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.config.lr * self.schedule(self.steps)

    def advance(self) -> None:
        """Move the schedule on by one step."""
        self.steps += 1

    def update(self, rows: Sequence[Row], objective: Objective) -> dict[str, float]:
        """One optimizer step on a mini-batch.

        The gradient does not depend on how the rows are split into micro-batches. A gradient that is not finite is
        thrown away and counted (`actor/skipped_nonfinite`).

        Returns:
            `actor/loss` and its parts, `actor/grad_norm`, `actor/lr`, and the objective's metrics as means over the
            trained tokens of `rows`.

        Raises:
            TrainingError: the gradient was not finite too often in a row.
        """
        sums: dict[str, float] = defaultdict(float)
        trained = sum(int(row.mask.sum()) for row in rows)
        with self._training():
            for group in plan(rows, self.token_budget):
                batch = pack([rows[i] for i in group], self.device)
                logprobs, entropy = self._forward(batch, objective)
                parts, metrics = objective(batch, logprobs, entropy)
                loss = torch.stack(list(parts.values())).sum()
                loss.backward()
                sums["actor/loss"] += float(loss.detach())
                for name, part in parts.items():
                    sums[name] += float(part.detach())
                for name, value in metrics.items():
                    sums[name] += float(value) / max(trained, 1)
            sums["actor/grad_norm"] = self._step()
        sums["actor/skipped_nonfinite"] = float(not math.isfinite(sums["actor/grad_norm"]))
        sums["actor/lr"] = self.lr
        return dict(sums)

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Row], temperature: float = 1.0) -> list[Float32]:
        """Log-probs of the trained tokens of each row under the present weights, (N,) per row."""
        result: list[Float32] = []
        for group in plan(rows, self.token_budget):
            batch = pack([rows[i] for i in group], self.device)
            hidden = packed_hidden_states(self.model, batch.input_ids_T, batch.cu_seqlens)
            values, _ = token_logprobs(
                hidden[batch.predict_N],
                lm_head_weight(self.model),
                batch.targets_N,
                bias_V=lm_head_bias(self.model),
                temperature=temperature,
            )
            counts = [int(rows[i].mask.sum()) for i in group]
            result.extend(np.split(values.cpu().numpy().astype(np.float32), np.cumsum(counts)[:-1]))
        return result

    def _forward(self, batch: MicroBatch, objective: Objective) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden = packed_hidden_states(self.model, batch.input_ids_T, batch.cu_seqlens)
        return token_logprobs(
            hidden[batch.predict_N],
            lm_head_weight(self.model),
            batch.targets_N,
            bias_V=lm_head_bias(self.model),
            temperature=objective.temperature,
            with_entropy=objective.needs_entropy,
        )

    def _step(self) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip))
        if math.isfinite(norm):
            self._bad_steps = 0
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr
            self.optimizer.step()
        else:
            self._bad_steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self._bad_steps >= MAX_BAD_STEPS:
            raise TrainingError(
                f"the gradient was not finite in {self._bad_steps} steps in a row; lower `actor.optim.lr` "
                f"(now {self.lr:g}) or go back to an earlier checkpoint"
            )
        return norm

    @contextmanager
    def _training(self) -> Generator[None]:
        """Thread count and, for gradient checkpointing, train mode for the time of a step."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        if self._checkpointing:  # Hugging Face recomputes activations in train mode only
            self.model.train()
        try:
            yield
        finally:
            self.model.eval()
            torch.set_num_threads(before)
