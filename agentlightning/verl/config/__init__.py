"""The configuration of reinforcement learning: verl's keys, typed, composed and answered.

`load_config` is the door; the loop reads the `VerlConfig` it makes and shows its notes at start.
"""

from .compose import ResolvedConfig, load_config
from .differences import DIFFERENCES, Difference
from .notes import Note
from .overrides import parse_overrides
from .schema import VerlConfig

__all__ = ["DIFFERENCES", "Difference", "Note", "ResolvedConfig", "VerlConfig", "load_config", "parse_overrides"]
