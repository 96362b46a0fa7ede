"""Short names of components in `Trainer(...)`. Read by `trainer`."""

ExecutionStrategyRegistry = {
    "shm": "agentlightning.execution.shared_memory.SharedMemoryExecutionStrategy",
    "cs": "agentlightning.execution.client_server.ClientServerExecutionStrategy",
}
"""`Trainer(strategy=...)`: in this process, or runner processes."""
