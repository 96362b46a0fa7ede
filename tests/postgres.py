"""A PostgreSQL server of the tests' own: in a temporary directory, on a socket and a loopback port, gone afterwards.

The `postgres` fixtures of several rooms start it. Where PostgreSQL is not installed such tests skip, unless the
environment variable AGL_REQUIRE names `postgres` (CI), then they fail.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

USER, PASSWORD = "agl", "not-to-be-seen"
HOMES = (Path("/usr/lib/postgresql"), Path("/usr/local/lib/postgresql"), Path("/opt/homebrew/opt"))
START_SECONDS = 60.0


def require_postgres() -> None:
    """Skip the test without PostgreSQL; fail it where PostgreSQL must be there."""
    if program("postgres") and program("initdb"):
        return
    if "postgres" in os.environ.get("AGL_REQUIRE", "").replace(",", " ").split():
        pytest.fail("AGL_REQUIRE names postgres, and `postgres` or `initdb` is not installed")
    pytest.skip("PostgreSQL (`postgres`, `initdb`) is not installed")


def program(name: str) -> str | None:
    """The newest program of that name, on PATH or where Debian keeps it."""
    found = sorted(path for home in HOMES for path in home.glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


class PostgresServer:
    """The server. `start` and `end` it; `kill` is what a fault does."""

    def __init__(self, *, fsync: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="agl-pg-"))
        self.port = _free_port()
        self._fsync = "on" if fsync else "off"
        self._numbers = itertools.count()
        self._as_user = _unprivileged()
        self._process: subprocess.Popen[bytes] | None = None
        if self._as_user:
            os.chown(self.directory, self._as_user["user"], self._as_user["group"])
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        # A locale that sorts unlike bytes do, as most servers have: the store must not depend on it.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=icu", "--icu-locale=en-US"]
        self._run(
            "initdb", "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}", "--no-sync", *locale
        )

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, database: str = "postgres") -> str:
        """With a password, over the loopback port."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A connection for the test itself, as superuser, over the socket."""
        return psycopg.connect(
            host=str(self.directory), port=self.port, user=USER, dbname=database, autocommit=True, connect_timeout=10
        )

    def new_database(self) -> str:
        """URL of an empty database."""
        name = f"store_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def new_schema(self) -> str:
        """URL of an empty schema, which is cheaper than a database."""
        name = f"store_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url()}?options=-csearch_path%3D{name}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        # It ends with the process that started it, however that ends, where there is a way to say so.
        with_parent = [shutil.which("setpriv") or "", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.directory,
            "fsync": self._fsync,
            "max_connections": 60,
            "shared_buffers": "32MB",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*with_parent, program("postgres") or "", "-D", str(self.data), *arguments],
                stderr=log,
                cwd=self.directory,
                **self._as_user,
            )
        self._await()

    def kill(self) -> None:
        """SIGKILL to all its processes, as the loss of the machine would."""
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        # Stopped first, so that it starts no others meanwhile.
        postmaster.suspend()
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None

    def end(self) -> None:
        """End it and remove what it wrote."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: at once
            self._process.wait()
        shutil.rmtree(self.directory)

    def _await(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                log = (self.directory / "log").read_text()
                assert self._process.poll() is None, f"PostgreSQL ended:\n{log}"
                assert time.monotonic() < deadline, f"PostgreSQL did not answer:\n{log}"
                time.sleep(0.02)

    def _run(self, name: str, *arguments: str) -> None:
        command = [program(name) or "", "-D", str(self.data), "-U", USER, *arguments]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False, **self._as_user)
        assert done.returncode == 0, done.stderr


@contextmanager
def postgres_server(**options: Any) -> Iterator[PostgresServer]:
    """A running server for the length of a fixture."""
    require_postgres()
    server = PostgresServer(**options)
    try:
        server.start()
        yield server
    finally:
        server.end()


def _unprivileged() -> dict[str, Any]:
    """How to start a program that refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise AssertionError("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of a process; each takes a `new_database`."""
    with postgres_server() as server:
        yield server
