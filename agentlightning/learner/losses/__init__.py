"""Losses: what a training step minimises, as functions of numbers per token.

One file each. Policy losses are functions of flat tokens (`base.py`); the training step (`objectives.py`) and the
public functions for padded (B, T) tensors evaluate the very same ones. `aggregation.py` says how tokens become one
number.
"""

from .aggregation import AGG_MODES, agg_loss, token_weights, turn_weights
from .base import FlatSequences, PolicyLoss, PolicyTokens
from .dpo import compute_online_dpo_loss
from .padding import Padding
from .registry import (
    PaddedLoss,
    agg_mode_of,
    compute_policy_loss,
    get_policy_loss,
    policy_losses,
    register_policy_loss,
    vanishes_without_advantage,
)
from .settings import Settings
from .sppo import compute_sppo_loss, softmean, sppo_aggregate
from .value import compute_value_loss, value_losses

__all__ = [
    "AGG_MODES",
    "FlatSequences",
    "PaddedLoss",
    "Padding",
    "PolicyLoss",
    "PolicyTokens",
    "Settings",
    "agg_loss",
    "agg_mode_of",
    "compute_online_dpo_loss",
    "compute_policy_loss",
    "compute_sppo_loss",
    "compute_value_loss",
    "get_policy_loss",
    "policy_losses",
    "register_policy_loss",
    "softmean",
    "sppo_aggregate",
    "token_weights",
    "turn_weights",
    "value_losses",
    "vanishes_without_advantage",
]
