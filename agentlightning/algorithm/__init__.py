"""What to learn: the base class, functions as algorithms, and the algorithms themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentlightning.not_built import missing

from .base import Algorithm, FastAlgorithm
from .decorator import FunctionalAlgorithm, algo

if TYPE_CHECKING:
    from .baseline import Baseline
    from .verl import VERL

__all__ = ["VERL", "Algorithm", "Baseline", "FastAlgorithm", "FunctionalAlgorithm", "algo"]


def __getattr__(name: str) -> Any:
    if name == "Baseline":
        from .baseline import Baseline

        return Baseline
    if name == "VERL":
        from .verl import VERL

        return VERL
    raise missing(__name__, name)
