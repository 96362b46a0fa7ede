"""`ResourceCache`: the resources of a rollout, with as few questions to the store as is safe. Called by `attempt`."""

from __future__ import annotations

from collections import OrderedDict

from agentlightning.store.base import LightningStore
from agentlightning.types import AttemptedRollout, NamedResources

KEPT = 8
"""How many versions are remembered: those of the rollouts that are under way now."""
MARGIN_S = 0.1
"""How far apart the clocks of several servers of one store may be, in seconds."""


class ResourceCache:
    """Resources by id, for one runner.

    The resources under an id may be changed. What was read is used again only for rollouts that were created before
    it was read: so a rollout never gets resources that are older than itself. Both times are the store's: an attempt
    begins before its resources are read.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, NamedResources]] = OrderedDict()

    async def get(self, store: LightningStore, rollout: AttemptedRollout) -> NamedResources | None:
        """Copies of the resources that `rollout` names, else of the latest ones; `None` where there are none."""
        resources_id = rollout.resources_id
        if resources_id is None:
            update = await store.get_latest_resources()
            return None if update is None else update.resources
        read_at, resources = self._kept.get(resources_id, (0.0, None))
        if resources is None or rollout.start_time + MARGIN_S > read_at:
            update = await store.get_resources_by_id(resources_id)
            if update is None:
                return None
            resources = update.resources
            self._keep(resources_id, rollout.attempt.start_time, resources)
        return {name: resource.model_copy(deep=True) for name, resource in resources.items()}

    def _keep(self, resources_id: str, read_at: float, resources: NamedResources) -> None:
        self._kept[resources_id] = (read_at, resources)
        self._kept.move_to_end(resources_id)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
