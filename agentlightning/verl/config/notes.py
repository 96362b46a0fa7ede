"""`Note`: what to tell the user at start about a key that was accepted but does something else here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Note:
    """One answer to one key.

    Args:
        key: Full name.
        value: What the user set.
        kind: `replaced`: something else happens (`agentlightning.strict` makes it an error). `no_effect`: verl would do
            nothing with it either. `info`: worth knowing, such as another name for a key or an unusual combination.
        instead: What happens.
        real: How to get the real thing.
    """

    key: str
    value: Any
    kind: Literal["replaced", "no_effect", "info"]
    instead: str
    real: str = ""

    def __str__(self) -> str:
        return f"`{self.key}`={self.value!r}: {self.instead}" + (f"; {self.real}" if self.real else "")
