"""`Listener`: hears, from PostgreSQL, what other servers on the same database have queued and ended.

`postgres` starts it and writes the notes (`pg_notify`) that it reads. It wakes those who wait in this process. While
its connection is gone it may miss some, so that afterwards everybody is woken to look again.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from psycopg import sql

from .ledger import Effects
from .waits import Waits

NOTE_BYTES = 7500
"""Longest note; PostgreSQL takes less than 8000 bytes."""
MOST_NOTES = 16
"""A transaction that has more to say tells everybody to look."""
LOOK = "look"
FIRST_DELAY, LONGEST_DELAY = 0.05, 5.0
"""Seconds between tries to connect."""


class Listener:
    """A thread with a connection of its own. `close` ends it.

    Args:
        connect: Makes a connection.
        channel: Where to listen.
        own: The backend process of the connection whose notes are this store's own.
        waits: Who to wake.

    Raises:
        psycopg.OperationalError: the first connection can't be made.
    """

    def __init__(
        self, connect: Callable[[], psycopg.Connection[Any]], channel: str, own: Callable[[], int], waits: Waits
    ) -> None:
        self._connect, self._channel, self._own, self._waits = connect, channel, own, waits
        self._ear, self._mouth = socket.socketpair()
        self._closed = threading.Event()
        connection = self._listening()
        self._thread = threading.Thread(target=self._work, args=(connection,), name="agl-store-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._mouth.send(b".")
        self._thread.join()
        self._ear.close()
        self._mouth.close()

    def _work(self, connection: psycopg.Connection[Any]) -> None:
        delay = FIRST_DELAY
        while not self._closed.is_set():
            try:
                if connection.closed:
                    connection = self._listening()
                    self._waits.wake_all()  # what happened meanwhile, nobody has told us
                    delay = FIRST_DELAY
                self._listen(connection)
            except psycopg.Error:
                connection.close()
                self._closed.wait(delay)
                delay = min(2 * delay, LONGEST_DELAY)
        connection.close()

    def _listening(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        return connection

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        """Until closed, or the connection is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            selector.register(self._ear, selectors.EVENT_READ)
            while not self._closed.is_set():
                selector.select()
                for note in connection.notifies(timeout=0):
                    if note.pid != self._own():
                        self._hear(note.payload)

    def _hear(self, note: str) -> None:
        if note == LOOK:
            self._waits.wake_all()
        else:
            queued, ended = json.loads(note)
            self._waits.notify(Effects(queued, ended))


def notes(effects: Effects) -> list[str]:
    """What to tell the other servers of `effects`."""
    if not effects.queued and not effects.ended:
        return []
    found = [json.dumps([0, ids], separators=(",", ":")) for ids in _portions(effects.ended)]
    if effects.queued:
        found.append(json.dumps([effects.queued, []], separators=(",", ":")))
    return found if len(found) <= MOST_NOTES else [LOOK]


def _portions(ids: Iterable[str]) -> Iterable[list[str]]:
    portion, size = list[str](), 0
    for rollout_id in ids:
        length = len(json.dumps(rollout_id)) + 1
        if portion and size + length > NOTE_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(rollout_id)
        size += length
    if portion:
        yield portion
