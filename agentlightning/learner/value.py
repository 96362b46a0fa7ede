"""The critic of PPO: a decoder with a linear head that says how much reward is still to come.

The value of a trained token is read where the token is predicted, one position before it, like its log-prob: it is
the value of the state in which the token was chosen. Called by `verl/`; the training step is `Learner`'s.
Source: Proximal Policy Optimization (arXiv 1707.06347); names of metrics are verl's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agentlightning.types.tokens import Float32

from .batch import MicroBatch, Row
from .forward import cpu_threads, micro_batches, numbers_by_row, predicting_states
from .gradients import Reader
from .learner import Learner
from .optimizer import OptimizerConfig
from .schedule import Schedule


class ValueModel(nn.Module):
    """The decoder of a causal LM and a linear head, (H,) -> 1.

    The head starts at zero: all values are 0 before the first step, whatever the seed.

    Args:
        trunk: A Hugging Face causal LM loaded by `inference.loading`, whose output layer is not used: the critic's own,
            or a tree with LoRA adapters on a base that others share.
    """

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk
        dtype = torch.promote_types(trunk.dtype, torch.float32)  # values in half precision would be too coarse
        self.head = nn.Linear(trunk.config.hidden_size, 1, device=trunk.device, dtype=dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def copy_of(cls, model: Any) -> ValueModel:
        """A value model that starts from a copy of `model`, a causal LM."""
        return cls(copy.deepcopy(model))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., H) hidden states to (...) values."""
        return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1)

    def hidden(self, batch: MicroBatch) -> Tensor:
        """(N, H): hidden states that predict the trained tokens."""
        return predicting_states(self.trunk, batch)

    def read(
        self, hidden_NH: Tensor, targets_N: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(N,) values and no entropies; targets and temperature make no difference."""
        return self(hidden_NH), None

    def chunks(self, tokens: int) -> int:
        """1: one number a token is no burden."""
        return 1


class Critic(Learner):
    """Trains a `ValueModel` by `Learner.update`; `outputs_N` of its objective are values.

    `update` gives `critic/loss`, `critic/grad_norm`, `critic/lr`, `critic/skipped_nonfinite` and what the objective
    (`objectives.Value`) names. `model` is the trunk, `head` the head. Arguments are those of `Learner`.
    """

    prefix: ClassVar[str] = "critic"

    def __init__(
        self,
        model: ValueModel,
        *,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        token_budget: int = 8192,
        threads: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.value_model = model
        self.head = model.head
        super().__init__(
            model.trunk,
            optimizer=optimizer,
            schedule=schedule,
            token_budget=token_budget,
            threads=threads,
            gradient_checkpointing=gradient_checkpointing,
        )

    def outputs(self, rows: Sequence[Row], temperature: float = 1.0) -> list[Float32]:
        """The values of the trained tokens of each row under the present weights, (N,) per row; no temperature."""
        del temperature

        def score(batch: MicroBatch) -> Mapping[str, Tensor]:
            return {"values": self.value_model(self.value_model.hidden(batch))}

        with cpu_threads(self.threads):
            micro = micro_batches(rows, self.token_budget, self.device)
            return numbers_by_row(rows, micro, ["values"], score)["values"]

    def _reader(self) -> Reader:
        return self.value_model

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        unused = {id(p) for p in self.model.get_output_embeddings().parameters()}
        unused -= {id(p) for p in self.model.get_input_embeddings().parameters()}  # tied: used after all
        trunk = ((name, p) for name, p in self.model.named_parameters() if id(p) not in unused)
        return chain(trunk, self.head.named_parameters(prefix="value_head"))
