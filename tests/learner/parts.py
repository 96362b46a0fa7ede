"""Rows, learners, critics and references for the tests of adapters and checkpoints."""

import numpy as np

from agentlightning.inference.loading import load_model
from agentlightning.learner.batch import Row
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.objectives import CrossEntropy, Value
from agentlightning.learner.schedule import Schedule
from agentlightning.learner.value import Critic, ValueModel

COLUMNS = ("weights", "values", "returns")


def make_rows(seed=0, n=4, length=9, vocabulary=50):
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        mask = generator.random(length) < 0.6
        mask[0], mask[-1] = False, True
        columns = {name: generator.random(int(mask.sum())).astype(np.float32) for name in COLUMNS}
        rows.append(Row(generator.integers(0, vocabulary, length).astype(np.int32), mask, columns))
    return rows


def make_learner(model, **changes):
    settings = {"optimizer": OptimizerConfig(lr=1e-2), "schedule": Schedule(10, 2, "cosine"), "threads": 1}
    return Learner(model, **{**settings, **changes})


def learner_of(path, adapt=None):
    """A learner of the model at `path`, changed by `adapt`, and its tokenizer."""
    loaded = load_model(path)
    if adapt is not None:
        adapt(loaded.model)
    return make_learner(loaded.model), loaded.tokenizer


def steps(learner, n, first=0):
    """`n` updates on different rows; their metrics."""
    objective = Value() if isinstance(learner, Critic) else CrossEntropy()
    metrics = []
    for seed in range(first, first + n):
        metrics.append(learner.update(make_rows(seed), objective))
        learner.advance()
    return metrics


def critic_of(path, adapt=None, model=None):
    """A critic on `model`, or on the one at `path`, and its tokenizer."""
    loaded = load_model(path)
    trunk = loaded.model if model is None else model
    if adapt is not None:
        adapt(trunk)
    critic = Critic(ValueModel(trunk), optimizer=OptimizerConfig(lr=1e-2), schedule=Schedule(10), threads=1)
    return critic, loaded.tokenizer
