"""A proxy before PostgreSQL that cuts a connection when a chosen answer of the database comes by. For tests."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from ..postgres import PostgresServer


class CuttingProxy:
    """Passes everything on until armed by `cut`."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tag: bytes | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url: str) -> str:
        """The same database through the proxy, in clear text, so that it can read along."""
        port = self._listener.getsockname()[1]
        return url.replace(f":{self._server.port}/", f":{port}/") + "?sslmode=disable&gssencmode=disable"

    def cut(self, command: str) -> None:
        """Cut the connection when the database says that it has completed `command`, and don't pass that on."""
        self._tag = command.encode() + b"\0"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                database = socket.create_connection(("127.0.0.1", self._server.port))
                threading.Thread(target=self._pass_requests, args=(client, database), daemon=True).start()
                threading.Thread(target=self._pass_answers, args=(client, database), daemon=True).start()

    def _pass_requests(self, client: socket.socket, database: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                database.sendall(data)
        _shut(client, database)

    def _pass_answers(self, client: socket.socket, database: socket.socket) -> None:
        with suppress(OSError):
            while data := database.recv(1 << 16):
                if self._tag is not None and self._tag in data:
                    self._tag, self.cuts = None, self.cuts + 1
                    break
                client.sendall(data)
        _shut(client, database)


def _shut(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
