"""REINFORCE (Williams 1992): the policy gradient; importance weights correct for who sampled."""

from __future__ import annotations

from .base import Losses, PolicyLoss, PolicyTokens
from .settings import Settings


def _reinforce(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token `-A log pi`; metric `actor/ppo_kl` against what sampled."""
    log_ratio = tokens.log_ratio().detach()
    return -tokens.advantages * tokens.log_prob, {"actor/ppo_kl": -log_ratio}


reinforce = PolicyLoss(_reinforce)
