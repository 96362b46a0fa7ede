"""Rows, learners and gradients for the tests of the training step, and an independent way to the same numbers."""

import copy

import numpy as np
import torch

from agentlightning.learner.batch import Row
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.schedule import Schedule


def make_rows(seed=0, n=5, longest=12, vocabulary=50):
    generator = np.random.default_rng(seed)
    rows = []
    for sequence in range(n):
        length = int(generator.integers(2, longest))
        mask = generator.random(length) < 0.6
        mask[0] = False
        mask[-1] = True
        count = int(mask.sum())
        rows.append(
            Row(
                generator.integers(0, vocabulary, length).astype(np.int32),
                mask,
                {
                    "weights": generator.random(count).astype(np.float32),
                    "old_logprobs": (-generator.random(count) * 4).astype(np.float32),
                    "ref_logprobs": (-generator.random(count) * 4).astype(np.float32),
                    "advantages": generator.normal(size=count).astype(np.float32),
                    "values": generator.normal(size=count).astype(np.float32),
                    "returns": generator.normal(size=count).astype(np.float32),
                },
                sequence,
            )
        )
    return rows


def make_learner(model, cls=Learner, **changes):
    settings = {"optimizer": OptimizerConfig(lr=1e-2), "schedule": Schedule(10), "token_budget": 16, "threads": 1}
    return cls(model, **{**settings, **changes})


def gradients(model, rows, objective, cls=Learner, **changes):
    """What one update steps along, read off plain gradient descent with a rate of 1; and its metrics."""
    descent = OptimizerConfig(lr=1.0, weight_decay=0.0, grad_clip=1e12, optimizer="SGD")
    learner = make_learner(copy.deepcopy(model), cls, optimizer=descent, **changes)
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    metrics = learner.update(rows, objective)
    return {name: before[name] - p.detach() for name, p in learner.parameters.items()}, metrics


def assert_close(got, wanted, rtol=1e-9, atol=1e-12):
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=rtol, atol=atol, msg=lambda text, name=name: name + text)


def alone(model, row, temperature=1.0):
    """(N, V) log-probs of each trained token's place, from the row run alone through the model's ordinary forward."""
    ids = torch.from_numpy(row.token_ids.astype(np.int64))[None]
    logits = model(input_ids=ids, use_cache=False).logits[0] / temperature
    return torch.log_softmax(logits, -1)[np.flatnonzero(row.mask) - 1]


def alone_logprobs(model, row, temperature=1.0):
    """(N,) differentiable."""
    targets = torch.from_numpy(row.token_ids[row.mask].astype(np.int64))
    return alone(model, row, temperature).gather(-1, targets[:, None])[:, 0]


def wanted_gradients(model, loss):
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}
