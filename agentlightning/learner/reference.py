"""A frozen policy that others are compared with: for KL terms, DPO and SPIN.

Called by `verl/`. Nothing steps it; `sync` makes it catch up with the policy (SPIN's `trainer.ref_update_freq`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from agentlightning.types import ModelError
from agentlightning.types.tokens import Float32

from .batch import Row
from .forward import cpu_threads, policy_logprobs


class Reference:
    """Log-probs under weights that training does not move.

    Args:
        model: A Hugging Face causal LM loaded by `inference.loading`. It must not be the policy itself; a tree on the
            same base without the policy's LoRA adapters costs nothing (`lora.shared_copy`).
        token_budget: Longest micro-batch in tokens.
        threads: CPU threads; `None`: as many as there are physical cores.
    """

    def __init__(self, model: Any, *, token_budget: int = 8192, threads: int | None = None) -> None:
        self.model = model
        self.token_budget = token_budget
        self.threads = threads
        self._changed: set[str] = set()

    @classmethod
    def copy_of(cls, model: Any, *, token_budget: int = 8192, threads: int | None = None) -> Reference:
        """A reference that is what `model` is now. Of a policy with adapters it shares the frozen base."""
        still = [*(p for p in model.parameters() if not p.requires_grad), *model.buffers()]
        frozen = copy.deepcopy(model, {id(tensor): tensor for tensor in still}).requires_grad_(False)
        return cls(frozen, token_budget=token_budget, threads=threads)

    def logprobs(self, rows: Sequence[Row], temperature: float = 1.0) -> list[Float32]:
        """Log-probs of the trained tokens of each row, (N,) per row."""
        device = next(iter(self.model.parameters())).device
        with cpu_threads(self.threads):
            return policy_logprobs(self.model, rows, temperature, token_budget=self.token_budget, device=device)

    def sync(self, source: Any) -> None:
        """Take over the weights of `source`, in place; those that both share stay as they are.

        Raises:
            ModelError: `source` is another model, or only one of them has adapters.
        """
        theirs = dict(source.named_parameters())
        mine = dict(self.model.named_parameters())
        if extra := sorted(theirs.keys() ^ mine.keys()):
            raise ModelError(
                f"the reference can't follow the policy: only one of them has `{extra[0]}`. "
                "Make it a copy of the policy, or give it LoRA adapters of the same shape"
            )
        self._write({name: p for name, p in mine.items() if p.data_ptr() != theirs[name].data_ptr()}, theirs)

    def state(self) -> dict[str, Tensor]:
        """The weights that `sync` has changed, by name: none while it is still what it began as."""
        return {name: p.detach() for name, p in self.model.named_parameters() if name in self._changed}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave.

        Raises:
            ModelError: it is of another model.
        """
        mine = dict(self.model.named_parameters())
        if unknown := sorted(state.keys() - mine.keys()):
            raise ModelError(f"the saved reference is of another model: this one has no `{unknown[0]}`")
        self._write({name: mine[name] for name in state}, state)

    @torch.no_grad()
    def _write(self, targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
        for name, target in targets.items():
            if target.shape != sources[name].shape:
                shapes = f"{tuple(sources[name].shape)} for {tuple(target.shape)}"
                raise ModelError(f"the weights for the reference are of another model: `{name}` is {shapes}")
        for name, target in targets.items():
            target.copy_(sources[name])
        self._changed.update(targets)
