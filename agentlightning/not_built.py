"""What Agent-Lightning 0.3 has and this package leaves out, with what to use instead.

Package and rooms ask `missing` in their module `__getattr__`, so that `agl.AgentOpsTracer` says what replaces it;
`install` does the same for whole modules and for `from agentlightning import AgentOpsTracer`. `docs/compatibility.md`
shows the same table. Imports nothing of the package.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

_V01 = "the v0.1 protocol is not built; give `Trainer.fit` an agent and a dataset"
_TRACER = "use `OtelTracer`; the gateway (`LLMProxy`) records LLM calls and their token ids whatever the tracer is"
_STORE = "use `SqlLightningStore` (a SQLite file, or PostgreSQL for several machines) or `InMemoryLightningStore`"

NAMES: Final[dict[str, str]] = {
    "AgentLightningClient": f"{_V01}; programs elsewhere use `LightningStoreClient` or `agl runner`",
    "AgentLightningServer": f"{_V01}; `LightningStoreServer` or `agl store` serve the store",
    "DevTaskLoader": "the v0.1 protocol is not built; use `Trainer.dev`, or `LitAgentRunner.run_context` and `step`",
    "LegacyAgentRunner": "the v0.1 protocol is not built; use `LitAgentRunner`",
    "RolloutLegacy": "the v0.1 protocol is not built; use `Rollout` and the spans of its latest attempt",
    "RolloutRawResultLegacy": "the v0.1 protocol is not built; use `RolloutRawResult`",
    "Task": "the v0.1 protocol is not built; use `Rollout`, whose `input` is the task",
    "TaskIfAny": "the v0.1 protocol is not built; `LightningStore.dequeue_rollout` returns a rollout or `None`",
    "GenericResponse": "the v0.1 protocol is not built; `LightningStore` methods return what they made",
    "AgentOpsTracer": _TRACER,
    "WeaveTracer": _TRACER,
    "MongoLightningStore": _STORE,
    "CollectionBasedLightningStore": f"the collections layer is not built; {_STORE}",
    "lightning_cli": "not built; use `agl train`, `agl dev` and `agl runner`, or `argparse`",
}
"""Name -> what to use instead. A name that some room does build is never looked up here."""

MODULES: Final[dict[str, str]] = {
    "agentlightning.client": NAMES["AgentLightningClient"],
    "agentlightning.server": NAMES["AgentLightningServer"],
    "agentlightning.config": NAMES["lightning_cli"],
    "agentlightning.instrumentation.agentops": _TRACER,
    "agentlightning.instrumentation.agentops_langchain": _TRACER,
    "agentlightning.instrumentation.litellm": _TRACER,
    "agentlightning.instrumentation.vllm": "the gateway asks vLLM (0.10.2 or newer) for token ids; nothing is patched",
    "agentlightning.instrumentation.weave": _TRACER,
    "agentlightning.reward": "import from `agentlightning.emitter`",
    "agentlightning.runner.legacy": NAMES["LegacyAgentRunner"],
    "agentlightning.tracer.agentops": _TRACER,
    "agentlightning.tracer.weave": _TRACER,
    "agentlightning.store.mongo": _STORE,
    "agentlightning.store.collection": f"the collections layer is not built; {_STORE}",
    "agentlightning.store.collection_based": f"the collections layer is not built; {_STORE}",
    "agentlightning.utils.server_launcher": "gunicorn launchers are not built; `LightningStoreServer` runs uvicorn",
}
"""Module -> what to use instead."""


def missing(module: str, name: str) -> AttributeError:
    """What the `__getattr__` of `module` raises for a name that it doesn't have."""
    said = f"`{module}.{name}` does not exist here: {NAMES[name]}" if name in NAMES else None
    return AttributeError(said or f"module `{module}` has no attribute `{name}`", name=name)


class _LeftOut(MetaPathFinder):
    """Asked last of all, so only for modules that nobody else finds.

    `from package import name` asks for the module `package.name` where the package has no such attribute, and drops the
    text of the `AttributeError`.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in MODULES:
            raise ModuleNotFoundError(f"`{fullname}` does not exist here: {MODULES[fullname]}", name=fullname)
        package, _, name = fullname.rpartition(".")
        if name in NAMES and package.partition(".")[0] == __package__:
            # Not `ModuleNotFoundError`, which `from package import name` takes for an ordinary miss.
            raise ImportError(str(missing(package, name)), name=package)
        return None


def install() -> None:
    """Let imports of what is in `MODULES` and `NAMES` say what to use instead."""
    if not any(isinstance(finder, _LeftOut) for finder in sys.meta_path):
        sys.meta_path.append(_LeftOut())
