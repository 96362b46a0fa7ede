"""`finetune`: cross-entropy on the assistant's tokens of conversations, from one model directory to another.

Resumable: a killed run goes on from its last checkpoint with the same data order. The training step is the one that
reinforcement learning uses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from agentlightning.inference.loading import load_model, save_model
from agentlightning.learner.batch import Row
from agentlightning.learner.checkpoint import LearnerPart, latest_checkpoint, load_checkpoint, save_checkpoint
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.losses import token_weights
from agentlightning.learner.objectives import CrossEntropy
from agentlightning.learner.schedule import Schedule
from agentlightning.report.progress import track
from agentlightning.types import ConfigError

from .conversations import Conversation, encode


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """Settings of `finetune`."""

    epochs: int = 1
    batch_size: int = 32
    """Conversations an optimizer step."""
    lr: float = 1e-4
    """Peak learning rate; warms up over `warmup_ratio` of the steps, then falls as a cosine to 0."""
    warmup_ratio: float = 0.05
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    max_length: int = 1024
    """Longest conversation in tokens."""
    token_budget: int = 8192
    """Longest micro-batch in tokens."""
    save_every: int = 50
    """Steps between checkpoints."""
    seed: int = 0
    threads: int | None = None


def finetune(
    model: str | Path,
    conversations: Sequence[Conversation],
    output: Path,
    config: FinetuneConfig,
    *,
    device: str = "cpu",
) -> dict[str, float]:
    """Fine-tune `model` on what the assistant says in `conversations` and save it as `output`.

    Args:
        model: Local directory or hub name.
        conversations: OpenAI messages, each with its tools.
        output: Directory of the result in Hugging Face layout. While training, `<output>.partial` holds the
            checkpoints; a call that finds them goes on from the last.

    Returns:
        `train/loss` (nats a token, mean over the last epoch), `train/tokens`, `train/steps`.

    Raises:
        ConfigError: a setting is out of range.
        DatasetError: a conversation can't be used.
        ModelError, TrainingError: see `learner`.
    """
    if config.epochs < 1 or config.batch_size < 1:
        raise ConfigError(f"`epochs` and `batch_size` must be at least 1, got {config.epochs} and {config.batch_size}")
    loaded = load_model(str(model), dtype="float32", device=device)
    rows = encode(loaded.tokenizer, conversations, max_length=config.max_length)
    per_epoch = -(-len(rows) // config.batch_size)
    total = per_epoch * config.epochs
    learner = Learner(
        loaded.model,
        optimizer=OptimizerConfig(lr=config.lr, weight_decay=config.weight_decay, grad_clip=config.grad_clip),
        schedule=Schedule(total, int(config.warmup_ratio * total), "cosine"),
        token_budget=config.token_budget,
        threads=config.threads,
    )
    work = output.with_name(f"{output.name}.partial")
    begun_with = {"model": str(model), "rows": _digest(rows), "config": dataclasses.asdict(config)}
    parts = {"actor": LearnerPart(learner, loaded.tokenizer)}
    losses = _restore(work, parts, begun_with)
    for step in track(range(len(losses), total), "fine-tuning", total=total):
        epoch, position = divmod(step, per_epoch)
        order = np.random.default_rng([config.seed, epoch]).permutation(len(rows))
        chosen = [rows[i] for i in order[position * config.batch_size : (position + 1) * config.batch_size]]
        losses.append(learner.update(_weigh(chosen), CrossEntropy())["actor/loss"])
        learner.advance()
        if (step + 1) % config.save_every == 0 and step + 1 < total:
            state = {"begun_with": begun_with, "losses": losses}
            save_checkpoint(work, step + 1, parts, state, keep=1)
    save_model(loaded.model, loaded.tokenizer, output)
    if work.exists():  # renamed first: a kill in between must not leave half of it to resume from
        shutil.rmtree(work.rename(work.with_name(f"{work.name}.done")))
    return {
        "train/loss": float(np.mean(losses[-per_epoch:])),
        "train/tokens": float(sum(len(row) for row in rows) * config.epochs),
        "train/steps": float(total),
    }


def _weigh(rows: Sequence[Row]) -> list[Row]:
    """Every trained token of the batch counts the same."""
    counts = [row.trained for row in rows]
    weights = token_weights("token-mean", counts)
    return [
        row.with_columns(weights=np.full(count, weight, np.float32))
        for row, count, weight in zip(rows, counts, weights, strict=True)
    ]


def _digest(rows: Sequence[Row]) -> str:
    """A fingerprint of the training data."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(row.token_ids.tobytes() + row.mask.tobytes())
    return digest.hexdigest()


def _restore(work: Path, parts: Mapping[str, LearnerPart], begun_with: dict[str, Any]) -> list[float]:
    """Losses of the steps done so far; empty without a checkpoint.

    Raises:
        ConfigError: the checkpoint was made from another model, other data or with other settings.
    """
    path = latest_checkpoint(work)
    if path is None:
        return []
    state = load_checkpoint(path, parts)
    changed = [
        name for name, value in begun_with.items() if orjson.dumps(state["begun_with"][name]) != orjson.dumps(value)
    ]
    if changed:
        raise ConfigError(f"`{work}` was begun with other {' and '.join(changed)}; remove it to start again")
    return list(state["losses"])
