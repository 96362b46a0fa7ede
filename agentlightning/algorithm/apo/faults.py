"""What went wrong with a request to an LLM, and what to do about it. Called by `endpoint`."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .budget import Usage

if TYPE_CHECKING:
    from openai import APIStatusError

_ENDS_THE_RUN = {
    401: "the endpoint does not accept the client's `api_key`",
    402: "the account of the client's `api_key` has no credit left",
    403: "the endpoint does not allow the client's `api_key` to use it",
    404: "the endpoint does not know this model or path; check the model's name and the client's `base_url`",
}

MENDED = ("option", "length")
"""Kinds after which the next try is another request: it has no reason to wait, or to be the last."""


class Fault(Exception):
    """One try that brought no reply.

    Args:
        kind: `rate_limit`, `server`, `timeout`, `connection`, `empty`, `malformed`, `option`,
            `length` or `refused`.
        message: For the log.
        again: Whether the same request may succeed later.
        after: Seconds to wait at least, where the endpoint says.
        billed: Whether the endpoint may have worked for it.
        fatal: No other request will succeed either.
        fields: Of a request that was refused: the texts that may name the option at fault.
        usage: What it took, where the endpoint says.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        again: bool = True,
        after: float | None = None,
        billed: bool = False,
        fatal: bool = False,
        fields: str = "",
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.again, self.after = kind, again, after
        self.billed, self.fatal, self.fields, self.usage = billed, fatal, fields, usage

    def of_option(self) -> Fault:
        """The same for a request that will do without an option."""
        return Fault("option", str(self))

    def of_length(self) -> Fault:
        """The same for a request that will ask for a shorter answer."""
        return Fault("length", str(self))


def fault_of(error: Exception) -> Fault:
    """What an exception of the `openai` client means; raises it again where it is none of an endpoint."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Fault("timeout", "the endpoint did not answer in time", billed=True)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error)
    if isinstance(error, openai.APIResponseValidationError | ValueError):
        return Fault("malformed", f"the reply is no chat completion: {one_line(error)}", billed=True)
    if isinstance(error, openai.APIConnectionError):
        # Where no connection came about, nothing can have been worked on.
        billed = type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")
        return Fault("connection", f"no connection: {one_line(error.__cause__ or error)}", billed=billed)
    if isinstance(error, RuntimeError) and "Event loop is closed" in str(error):
        # A client that was used in an earlier `asyncio.run` still holds its connections; the next try makes a new one.
        return Fault("connection", "the connection is of an event loop that has ended")
    raise error


def _of_status(error: APIStatusError) -> Fault:
    status, text = error.status_code, one_line(error)
    if status in _ENDS_THE_RUN:
        # What servers say to a wrong key may hold the key: only of the others is their text shown.
        said = f": {text}" if status == 404 else ""
        return Fault("refused", f"{_ENDS_THE_RUN[status]} (status {status}){said}", again=False, fatal=True)
    if error.code == "insufficient_quota":
        return Fault("refused", "the account of the client's `api_key` has no quota left", again=False, fatal=True)
    if status == 429:
        return Fault("rate_limit", text, after=_retry_after(error.response.headers))
    if status >= 500 or status in (408, 409, 425):
        return Fault("server", text, after=_retry_after(error.response.headers))
    return Fault("refused", text, again=False, fields=f"{error.param or ''} {error}"[:1000])


def _retry_after(headers: Mapping[str, Any]) -> float | None:
    """Seconds, from `retry-after-ms` or `retry-after` (a number or a date)."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    if (date := email.utils.parsedate_tz(headers.get("retry-after", ""))) is not None:
        try:
            return max(0.0, email.utils.mktime_tz(date) - time.time())
        except (ValueError, OverflowError):  # a date that no calendar has
            return None
    return None


def one_line(error: BaseException, most: int = 200) -> str:
    """Type and message, cut."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= most else text[: most - 3] + "..."
