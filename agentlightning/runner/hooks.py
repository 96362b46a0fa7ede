"""Calls a user's hooks; `Hook` itself is in `types`, where 0.3 has it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from agentlightning.types import Hook

__all__ = ["Hook", "trigger"]

logger = logging.getLogger(__name__)


async def trigger(hooks: Sequence[Hook], moment: str, **arguments: Any) -> None:
    """Call one method of all hooks, in order."""
    for hook in hooks:
        try:
            await getattr(hook, moment)(**arguments)
        except Exception:
            logger.exception("`%s.%s` failed; the rollout goes on", type(hook).__name__, moment)
