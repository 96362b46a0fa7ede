"""`Hook`: a user's own code at four moments of a rollout."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentlightning.litagent import LitAgent
from agentlightning.tracer import Tracer
from agentlightning.types import AttemptedRollout, Span

if TYPE_CHECKING:
    from .base import Runner

logger = logging.getLogger(__name__)


class Hook:
    """Override what you need. An exception in a hook is logged and changes nothing else."""

    async def on_rollout_start(self, *, agent: LitAgent[Any], runner: Runner[Any], rollout: AttemptedRollout) -> None:
        """Before anything else."""

    async def on_trace_start(
        self, *, agent: LitAgent[Any], runner: Runner[Any], tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Right before the agent: emitters work from here on."""

    async def on_trace_end(
        self, *, agent: LitAgent[Any], runner: Runner[Any], tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Right after the agent, failed or not: the last moment at which emitters work."""

    async def on_rollout_end(
        self, *, agent: LitAgent[Any], runner: Runner[Any], rollout: AttemptedRollout, spans: Sequence[Span]
    ) -> None:
        """All `spans` of the attempt are in the store, its final status is not."""


async def trigger(hooks: Sequence[Hook], moment: str, **arguments: Any) -> None:
    """Call one method of all hooks, in order."""
    for hook in hooks:
        try:
            await getattr(hook, moment)(**arguments)
        except Exception:
            logger.exception("`%s.%s` failed; the rollout goes on", type(hook).__name__, moment)
