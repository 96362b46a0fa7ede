"""Wiring: `Trainer.fit` and `Trainer.dev`."""

from .trainer import Trainer

__all__ = ["Trainer"]
