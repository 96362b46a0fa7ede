"""`VERL`: reinforcement learning on the model's weights, with verl's configuration keys."""

from .interface import VERL

__all__ = ["VERL"]
