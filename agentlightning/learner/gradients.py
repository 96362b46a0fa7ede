"""The gradient of an objective over micro-batches, exact for every split and for losses that see all tokens at once.

Called by `Learner.update`; calls the model through a `Reader` (log-probs of a policy, values of a critic) and the
objective on plain columns of numbers. Gradients are added to `.grad`; the optimizer is `learner.py`'s business.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from agentlightning.inference.attention import lm_head_bias, lm_head_weight

from .batch import MicroBatch, Tokens
from .forward import predicting_states
from .logprob import chunk_count, token_logprobs
from .objectives import Objective


class Reader(Protocol):
    """How the outputs of trained tokens are read off a model."""

    def hidden(self, batch: MicroBatch) -> Tensor:
        """(N, H): hidden states that predict the trained tokens, differentiable."""
        ...

    def read(
        self, hidden_NH: Tensor, targets_N: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(N,) outputs, differentiable, and entropies if asked for."""
        ...

    def chunks(self, tokens: int) -> int:
        """Into how many pieces `read` wants `tokens` cut."""
        ...


class PolicyReader:
    """Log-probs and entropies of a causal LM."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def hidden(self, batch: MicroBatch) -> Tensor:
        return predicting_states(self._model, batch)

    def read(
        self, hidden_NH: Tensor, targets_N: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        return token_logprobs(
            hidden_NH,
            lm_head_weight(self._model),
            targets_N,
            bias_V=lm_head_bias(self._model),
            temperature=temperature,
            with_entropy=with_entropy,
        )

    def chunks(self, tokens: int) -> int:
        return chunk_count(tokens, lm_head_weight(self._model).device)


class Tally:
    """Sums of loss parts and metrics over chunks and micro-batches, on the device until the end."""

    def __init__(self) -> None:
        self._parts: dict[str, Tensor | float] = defaultdict(float)
        self._metrics: dict[str, Tensor | float] = defaultdict(float)

    def add(self, parts: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> Tensor:
        """Count them in; the loss, with its gradient."""
        for name, part in parts.items():
            self._parts[name] += part.detach().double()
        for name, value in metrics.items():
            self._metrics[name] += value.detach().double()
        return torch.stack(list(parts.values())).sum()

    @property
    def loss(self) -> float:
        """The sum of all parts."""
        return math.fsum(map(float, self._parts.values()))

    def named(self, trained: int) -> dict[str, float]:
        """The parts of the loss, and the metrics as means over `trained` tokens."""
        metrics = {name: float(value) / max(trained, 1) for name, value in self._metrics.items()}
        return {name: float(part) for name, part in self._parts.items()} | metrics


def accumulate(
    reader: Reader, tokens: Tokens, batches: Sequence[tuple[Tensor, MicroBatch]], objective: Objective
) -> Tally:
    """Add the gradient of the objective on a mini-batch to that of the model.

    Args:
        reader: The model.
        tokens: All trained tokens of the mini-batch.
        batches: Its micro-batches, each with the places (N,) of its tokens in `tokens`. None is empty.
        objective: The loss.
    """
    tally = Tally()
    if objective.local:
        for _, batch in batches:
            _by_chunks(reader, reader.hidden(batch), batch, objective, tally)
    elif len(batches) == 1 and reader.chunks(len(tokens)) == 1:
        _at_once(reader, tokens, *batches[0], objective, tally)
    elif batches:
        _two_passes(reader, tokens, batches, objective, tally)
    return tally


def _at_once(
    reader: Reader, tokens: Tokens, places_N: Tensor, batch: MicroBatch, objective: Objective, tally: Tally
) -> None:
    """Any objective on a mini-batch that is one micro-batch of one chunk."""
    outputs, entropy = reader.read(
        reader.hidden(batch), batch.targets_N, objective.temperature, objective.needs_entropy
    )
    order = places_N.argsort()
    loss = tally.add(*objective(tokens, outputs[order], None if entropy is None else entropy[order]))
    if loss.requires_grad:
        loss.backward()


def _by_chunks(reader: Reader, hidden_NH: Tensor, batch: MicroBatch, objective: Objective, tally: Tally) -> None:
    """A local objective on one micro-batch.

    Loss and gradient are taken chunk by chunk, so the output layer runs once and holds the logits of one chunk.
    """
    pieces = [piece.detach().requires_grad_() for piece in hidden_NH.tensor_split(reader.chunks(len(batch)))]
    end = 0
    for piece in pieces:
        part = slice(end, end := end + len(piece))
        outputs = reader.read(piece, batch.targets_N[part], objective.temperature, objective.needs_entropy)
        loss = tally.add(*objective(_part(batch, part), *outputs))
        if loss.requires_grad:
            loss.backward()
    if hidden_NH.requires_grad:
        hidden_NH.backward(torch.cat([torch.zeros_like(p) if p.grad is None else p.grad for p in pieces]))


def _two_passes(
    reader: Reader, tokens: Tokens, batches: Sequence[tuple[Tensor, MicroBatch]], objective: Objective, tally: Tally
) -> None:
    """Any objective: first its slope at all outputs, then the outputs' own gradients, weighted by it.

    By the chain rule a loss L(f_1 .. f_N) has the gradient of the sum of s_n f_n with s_n = dL/df_n held fixed.
    """
    once = len(batches) == 1  # then the hidden states of the first pass serve the second
    hidden = torch.empty(0)
    seen: list[Tensor] = []
    for _, batch in batches:
        with torch.set_grad_enabled(once):
            hidden = reader.hidden(batch)
        seen.append(_read_all(reader, hidden, batch, objective))
    places = torch.cat([places for places, _ in batches])
    outputs_CN = torch.cat(seen, 1)[:, places.argsort()].requires_grad_()
    loss = tally.add(*objective(tokens, outputs_CN[0], outputs_CN[1] if objective.needs_entropy else None))
    if not loss.requires_grad:
        return
    (slope_CN,) = torch.autograd.grad(loss, outputs_CN)
    linear = _Linear(objective.temperature, needs_entropy=bool(slope_CN[1:].any()))
    for places, batch in batches:
        slopes = dict(zip(("outputs", "entropy"), slope_CN[:, places], strict=False))
        _by_chunks(reader, hidden if once else reader.hidden(batch), replace(batch, columns=slopes), linear, Tally())


@torch.no_grad()
def _read_all(reader: Reader, hidden_NH: Tensor, batch: MicroBatch, objective: Objective) -> Tensor:
    """(1, N) outputs, or (2, N) with entropies, without gradient."""
    count = reader.chunks(len(batch))
    columns: list[Tensor] = []
    for hidden, targets in zip(hidden_NH.tensor_split(count), batch.targets_N.tensor_split(count), strict=True):
        outputs, entropy = reader.read(hidden, targets, objective.temperature, objective.needs_entropy)
        columns.append(torch.stack([outputs] if entropy is None else [outputs, entropy]))
    return torch.cat(columns, 1)


@dataclass(frozen=True, slots=True)
class _Linear:
    """The sum of outputs and entropies times given numbers."""

    temperature: float
    needs_entropy: bool
    local: bool = True

    def __call__(
        self, tokens: Tokens, outputs_N: Tensor, entropy_N: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        loss = (tokens.columns["outputs"] * outputs_N).sum()
        if entropy_N is not None:
            loss = loss + (tokens.columns["entropy"] * entropy_N).sum()
        return {"linear": loss}, {}


def _part(tokens: Tokens, part: slice) -> Tokens:
    columns = {name: column[part] for name, column in tokens.columns.items()}
    return Tokens(columns=columns, sequence_N=tokens.sequence_N[part])
