"""How rows run through a model: micro-batches, hidden states, numbers back by row; threads and recomputation.

Shared by `learner.py`, `value.py` and `reference.py`; calls `batch.py`, `logprob.py` and `inference.attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from agentlightning.inference.attention import lm_head_bias, lm_head_weight
from agentlightning.types import ConfigError
from agentlightning.types.tokens import Float32

from .batch import MicroBatch, Row, hidden_states, pack, plan
from .logprob import token_statistics


def micro_batches(rows: Sequence[Row], token_budget: int, device: torch.device) -> list[tuple[Tensor, MicroBatch]]:
    """Packed micro-batches, each with the places (N,) of its tokens among all trained tokens of `rows`."""
    starts = np.cumsum([0, *(row.trained for row in rows)])
    result: list[tuple[Tensor, MicroBatch]] = []
    for group in plan(rows, token_budget) if rows else []:
        places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in group])
        result.append((torch.from_numpy(places).to(device), pack([rows[i] for i in group], device)))
    return result


def predicting_states(model: Any, batch: MicroBatch) -> Tensor:
    """(N, H): the hidden states that predict the trained tokens, differentiable."""
    return hidden_states(model, batch).index_select(0, batch.predict_N)


@torch.no_grad()
def numbers_by_row(
    rows: Sequence[Row],
    micro: Sequence[tuple[Tensor, MicroBatch]],
    names: Sequence[str],
    score: Callable[[MicroBatch], Mapping[str, Tensor]],
) -> dict[str, list[Float32]]:
    """What `score` says of the tokens of each micro-batch, (N,) each, as (N,) per row."""
    counts = [row.trained for row in rows]
    flat = {name: np.zeros(sum(counts), np.float32) for name in names}
    for places, batch in micro:
        found = score(batch)
        for name in names:
            flat[name][places.cpu().numpy()] = found[name].float().cpu().numpy()
    bounds = np.cumsum(counts)[:-1]
    return {name: np.split(values, bounds) if rows else [] for name, values in flat.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What a policy says of the trained tokens of rows, (N,) per row each."""

    logprobs: list[Float32]
    entropy: list[Float32]
    """In nats, of the distribution that the token was drawn from."""
    sum_pi_squared: list[Float32]
    """The sum of all squared probabilities of that distribution; the optimal-token baseline reads it."""


def policy_logprobs(
    model: Any, rows: Sequence[Row], temperature: float, *, token_budget: int, device: torch.device
) -> list[Float32]:
    """Log-probs of the trained tokens of `rows` under a causal LM, (N,) per row."""
    micro = micro_batches(rows, token_budget, device)
    return numbers_by_row(rows, micro, ["logprobs"], lambda batch: _score(model, batch, temperature))["logprobs"]


def policy_statistics(
    model: Any, rows: Sequence[Row], temperature: float, *, token_budget: int, device: torch.device
) -> Statistics:
    """Log-probs, entropies and sums of squared probabilities of the trained tokens of `rows` under a causal LM."""
    micro = micro_batches(rows, token_budget, device)
    names = ["logprobs", "entropy", "sum_pi_squared"]
    return Statistics(**numbers_by_row(rows, micro, names, lambda batch: _score(model, batch, temperature, full=True)))


def _score(model: Any, batch: MicroBatch, temperature: float, *, full: bool = False) -> dict[str, Tensor]:
    return token_statistics(
        predicting_states(model, batch),
        lm_head_weight(model),
        batch.targets_N,
        bias_V=lm_head_bias(model),
        temperature=temperature,
        full=full,
    )


@contextmanager
def cpu_threads(count: int | None) -> Generator[None]:
    """Run on `count` CPU threads, `None`: one for each physical core; then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or psutil.cpu_count(logical=False) or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Recomputation:
    """Gradient checkpointing of a Hugging Face decoder: activations are computed again in the backward pass.

    transformers ties it to training mode, which would also switch dropout on. Here a layer is in training mode only
    between its calls, as a sign to transformers, and never while it computes.

    Raises:
        ConfigError: the model has no layers that can be recomputed.
    """

    def __init__(self, decoder: torch.nn.Module) -> None:
        self._layers = [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not self._layers:
            raise ConfigError(
                f"`{type(decoder).__name__}` can't recompute its activations; "
                "set `actor_rollout_ref.model.enable_gradient_checkpointing=False`"
            )
        for layer in self._layers:
            layer.gradient_checkpointing = True
            setattr(layer, "_gradient_checkpointing_func", _recomputed(layer))  # noqa: B010  # transformers' switch

    @contextmanager
    def __call__(self) -> Generator[None]:
        """For the time of a step."""
        for layer in self._layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in self._layers:
                layer.training = False


def _recomputed(layer: torch.nn.Module) -> Callable[..., Any]:
    def compute(function: Callable[..., Any], *args: Any) -> Any:
        layer.training = False
        try:
            return function(*args)
        finally:
            layer.training = True

    def run(function: Callable[..., Any], *args: Any) -> Any:
        return checkpoint(compute, function, *args, use_reentrant=False)

    return run
