"""Writes a streamed answer in the agent's interface. Called by `gateway`, one for each stream."""

from __future__ import annotations

from .backend import Json
from .dialects import Interface, Translator, well_formed


class StreamWriter:
    """Chunks of a backend in, bytes for the agent out.

    Events that say that the answer, or one of its choices, is complete are held back until `end`, unless others come
    behind them: an agent must not go on from an answer that is not on record yet.

    Args:
        interface: The agent's.
        translator: Where the backend is asked in chat completions instead; `None`: chunks pass as they are.
    """

    def __init__(self, interface: Interface, translator: Translator | None) -> None:
        self._interface = interface
        self._translator = translator
        self._held: list[Json] = []

    def feed(self, chunk: Json) -> bytes:
        """What may go out when `chunk` has come.

        Raises:
            RequestError: 502, the chunk is malformed.
        """
        with well_formed():
            events = self._held + ([chunk] if self._translator is None else self._translator.feed(chunk))
            ready = len(events)
            while ready and self._interface.is_end(events[ready - 1]):
                ready -= 1
            self._held = events[ready:]
            return b"".join(map(self._interface.frame, events[:ready]))

    def end(self, response: Json) -> bytes:
        """The rest of the stream, from the whole answer as the backend gave it.

        Raises:
            RequestError: 502, the answer is malformed.
        """
        with well_formed():
            events = self._held + ([] if self._translator is None else self._translator.end(response))
            return b"".join([*map(self._interface.frame, events), self._interface.tail])
