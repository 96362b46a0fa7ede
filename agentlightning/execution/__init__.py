"""Where algorithms and runners run: in this process, in processes of their own, on several machines."""

from typing import TYPE_CHECKING, Any

from .base import AlgorithmBundle, ExecutionStrategy, Role, RunnerBundle
from .events import ExecutionEvent, MultiprocessingEvent, ThreadingEvent
from .shared_memory import SharedMemoryExecutionStrategy

if TYPE_CHECKING:
    from .client_server import ClientServerExecutionStrategy

__all__ = [
    "AlgorithmBundle",
    "ClientServerExecutionStrategy",
    "ExecutionEvent",
    "ExecutionStrategy",
    "MultiprocessingEvent",
    "Role",
    "RunnerBundle",
    "SharedMemoryExecutionStrategy",
    "ThreadingEvent",
]


def __getattr__(name: str) -> Any:
    if name == "ClientServerExecutionStrategy":
        from .client_server import ClientServerExecutionStrategy

        return ClientServerExecutionStrategy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
