"""The tiny model of this example: its tokenizer knows the words of the problems and the fixed parts of an episode.

Called by `train.py` where no other model is asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agentlightning.learner.tiny_model import tiny_model

from .calculator import calculate
from .data import vocabulary

ATOMS = (
    '<tool_call>\n{"name": "calculator", "arguments": {"expression": "',
    '"}}\n</tool_call>',
    *(f" {sign} " for sign in "+-*/"),
    "### ",
    " ###",
)
"""What is said in every episode, as one token each: two episodes in the time of one."""


def build(path: str | os.PathLike[str], *, seed: int = 0, **shape: Any) -> Path:
    """Save an untrained model to `path`; `shape` is passed on to `tiny_model`."""
    shown = "calculator(expression): work out arithmetic"  # what the chat template makes of `calculator.TOOL`
    corpus = [*vocabulary(), shown, calculate("nonsense")]
    return tiny_model(path, corpus, atoms=ATOMS, seed=seed, **shape)
