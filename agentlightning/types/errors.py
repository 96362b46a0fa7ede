"""The error tree. Every room raises these; `cli/` prints their message as one line.

    AgentLightningError
    ├── ConfigError        a wrong key, value or combination of options (before any rollout)
    ├── DatasetError       a dataset that can't be read or holds no tasks
    ├── ModelError         a model, tokenizer or checkpoint that can't be used
    ├── StoreInUseError    a store file that another process has open
    ├── StoreError         what a store refuses; each has an HTTP status
    │   ├── NotFoundError       404: an id that the store doesn't know
    │   ├── ConflictError       409: a change that the present state doesn't allow
    │   │   └── LeaseLostError      the attempt is no longer the one that counts: stop the agent
    │   ├── StoreClosedError    410: the store is closed, or closing for good
    │   └── StoreUnavailableError   the store's server or database can't be reached
    ├── RewardError        a reward that is NaN or infinite: whoever scored failed, not the policy
    ├── RunExistsError     a run directory that would be mixed with another run
    ├── RequestError       a request to an endpoint that can't be served (carries the HTTP status)
    └── TrainingError      training can't go on (nothing learnable, weights diverged)

Messages name the field, the value and the mend. Failures of an *agent* are not errors but data: they end
as a failed attempt with the exception in a span. Bad arguments of a store raise `ValueError` (`NotFoundError` and
`ConflictError` are such) or `TypeError`, as the public interface of Agent-Lightning 0.3 says.
"""

from __future__ import annotations

from collections.abc import Sequence


class AgentLightningError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigError(AgentLightningError, ValueError):
    """A configuration key, value or combination is wrong; raised before the first rollout."""


class DatasetError(AgentLightningError, ValueError):
    """A dataset is missing, unreadable or empty."""


class ModelError(AgentLightningError, ValueError):
    """A model, tokenizer or checkpoint can't be loaded, saved or used."""


class RewardError(AgentLightningError, ValueError):
    """A reward is NaN or infinite. A rollout that ends with it is not held against the policy."""


class RunExistsError(AgentLightningError, FileExistsError):
    """The run directory already holds a run and `resume` was not asked for."""


class StoreInUseError(AgentLightningError, RuntimeError):
    """Another process has this store open; two would not see each other's queue."""


class StoreError(AgentLightningError):
    """A store refuses, or can't be reached."""


class NotFoundError(StoreError, ValueError):
    """An id that the store doesn't know: it never did, or retention dropped it."""


class ConflictError(StoreError, ValueError):
    """A change that the present state of a rollout or attempt doesn't allow."""


class LeaseLostError(ConflictError):
    """The attempt was ended or superseded: nothing that its worker writes counts any more.

    Args:
        message: Which attempt, and what became of it.
        attempts: (rollout_id, attempt_id) of each attempt that lost its lease.
    """

    def __init__(self, message: str, attempts: Sequence[tuple[str, str]] = ()):
        super().__init__(message)
        self.attempts = list(attempts)


class StoreClosedError(StoreError, RuntimeError):
    """The store is closed, or closes for good: a runner ends, it need not try again."""


class StoreUnavailableError(StoreError, ConnectionError):
    """The store's server or database did not answer, also when tried again."""


class TrainingError(AgentLightningError, RuntimeError):
    """Training can't go on; what was learned so far is in the last checkpoint."""


class RequestError(AgentLightningError):
    """A request that an endpoint refuses.

    Args:
        message: What is wrong and how to mend it.
        status: HTTP status code of the answer.
        param: The request field at fault, where there is one.
        code: A short machine-readable reason, as in OpenAI's error objects.
        retry_after: Seconds after which the request may succeed; goes to the client as `Retry-After`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def to_body(self) -> dict[str, object]:
        """The OpenAI-style error object that goes to the client."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
