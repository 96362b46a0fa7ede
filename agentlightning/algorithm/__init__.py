"""What to learn: the base class, functions as algorithms, and the algorithms themselves."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from agentlightning.not_built import missing

from .base import Algorithm, FastAlgorithm
from .decorator import FunctionalAlgorithm, algo

if TYPE_CHECKING:
    from .apo import APO, Budget
    from .baseline import Baseline
    from .sequence import Sequence
    from .verl import VERL

__all__ = ["APO", "VERL", "Algorithm", "Baseline", "Budget", "FastAlgorithm", "FunctionalAlgorithm", "Sequence", "algo"]

_HOMES = {"APO": "apo", "Budget": "apo", "Baseline": "baseline", "Sequence": "sequence", "VERL": "verl"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise missing(__name__, name)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
