"""A policy on a tiny model, as the loop makes it, and rollouts that it could have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentlightning.credit import get_credit
from agentlightning.types import TokenCall
from agentlightning.verl.config import VerlConfig, load_config
from agentlightning.verl.deploy import Served, make_policy, serve
from agentlightning.verl.policy import PolicyRun
from agentlightning.verl.rows import Scored, score

from .batches import identical
from .rollouts import sample


def config(model: Path, **changes: Any) -> VerlConfig:
    base = {
        "algorithm.adv_estimator": "grpo",
        "actor_rollout_ref.model.path": str(model),
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.rollout.n": 2,
        "actor_rollout_ref.actor.optim.lr": 1e-2,
        "data.train_batch_size": 2,
        "data.max_prompt_length": 16,
        "data.max_response_length": 8,
        "agentlightning.threads": 1,
    }
    return load_config({**base, **changes}).config


def deploy(cfg: VerlConfig, steps: int = 4, credit: Any = identical) -> tuple[PolicyRun, Served]:
    (own,) = cfg.policies().values()
    served = serve(cfg, own)
    return make_policy("main_llm", cfg, own, served, get_credit(credit), steps), served


def answered(
    model: Any,
    task: int,
    number: int,
    reward: float | None,
    *,
    prompt: Any = (5, 6),
    response: Any = (7, 8),
    **more: Any,
) -> Any:
    """A rollout whose log-probs are those of the model."""
    ids = [*prompt, *response]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    logprobs = torch.log_softmax(logits, -1)
    at = range(len(prompt), len(ids))
    recorded = np.array([float(logprobs[i - 1, ids[i]]) for i in at], np.float32)
    call = TokenCall("m", np.array(prompt, np.int32), np.array(response, np.int32), recorded, "stop")
    return sample(task, number, [call], reward, **more)


def group(model: Any, task: int, *rewards: float, **more: Any) -> list[Any]:
    """A group of answers of different tokens and lengths."""
    return [
        answered(
            model, task, number, reward, prompt=(5 + task, 6), response=range(10 + number, 12 + 2 * number), **more
        )
        for number, reward in enumerate(rewards)
    ]


def scored(*groups: list[Any], credit: Any = identical) -> list[list[Scored]]:
    return score(groups, "main_llm", get_credit(credit))
