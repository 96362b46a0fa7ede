"""DRO: direct reward optimisation, a quadratic penalty on the log-ratio (arXiv 2405.19107)."""

from __future__ import annotations

from agentlightning.types import ConfigError

from .base import Losses, PolicyLoss, PolicyTokens
from .settings import Settings


def _dro(tokens: PolicyTokens, config: Settings) -> Losses:
    """Per token `-(A log pi - beta / 2 (log pi - log pi_old)^2)`.

    Raises:
        ConfigError: `policy_loss.dro_beta` is missing or not above 0.
    """
    beta = config.policy_loss.dro_beta
    if beta is None or beta <= 0:
        raise ConfigError(f"`policy_loss.dro_beta` is {beta}; loss mode `dro` needs a number above 0")
    log_ratio = tokens.log_ratio()
    losses = 0.5 * beta * log_ratio.square() - tokens.advantages * tokens.log_prob
    return losses, {"actor/ppo_kl": -log_ratio.detach()}


dro = PolicyLoss(_dro, proportional=False)
