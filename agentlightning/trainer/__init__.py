"""Wiring: `Trainer.fit` and `Trainer.dev`."""

from typing import TYPE_CHECKING, Any

from .components import build_component

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Trainer", "build_component"]


def __getattr__(name: str) -> Any:
    if name == "Trainer":
        from .trainer import Trainer  # runner processes import `bundle` and need no algorithms

        return Trainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
