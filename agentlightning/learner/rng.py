"""The random state of this process as JSON, for checkpoints. Called by `checkpoint`.

Everything of ours draws from generators with seeds of their own; this is for what users plug in.
"""

from __future__ import annotations

import random
from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """State of Python's, numpy's and torch's global generators; torch's on each GPU too."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": _text(torch.get_rng_state()),
        "cuda": [_text(state) for state in gpus],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Continue where `random_state` was taken. GPUs that there are no longer are passed over.

    Raises:
        KeyError, TypeError, ValueError: `state` is not one.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_tensor(state["torch"]))
    for device, text in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(_tensor(text), device)


def _text(state: torch.Tensor) -> str:
    return b64encode(state.cpu().numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(b64decode(text), np.uint8).copy())
