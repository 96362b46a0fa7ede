"""The configuration of reinforcement learning: verl's keys, typed, composed and answered.

`load_config` is the door; the loop reads the `VerlConfig` it makes and shows its notes at start.
"""

from .compose import ResolvedConfig, load_config
from .differences import DIFFERENCES, Difference
from .notes import Note
from .overrides import parse_overrides
from .presets import config_file, preset_names
from .schema import PolicyConfig, VerlConfig
from .show import as_yaml

__all__ = [
    "DIFFERENCES",
    "Difference",
    "Note",
    "PolicyConfig",
    "ResolvedConfig",
    "VerlConfig",
    "as_yaml",
    "config_file",
    "load_config",
    "parse_overrides",
    "preset_names",
]
