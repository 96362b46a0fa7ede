"""The servers that are compared: how each is started, where agents find it, and what they send. Used by `compare`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from shapes import SHAPES

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent.parent / ".peers" / "litellm" / "bin"
"""Where LiteLLM's proxy and httpx are: `make bench-peers`."""
KEY = "sk-benchmark-7f2c9a51d8e64b03"
"""LiteLLM's proxy does not start without a long one."""
START_S = 300.0
"""Longest time that a server may take to start. LiteLLM's takes more than a minute."""


@dataclass(frozen=True)
class Side:
    """One kind of server."""

    command: Sequence[str]
    """The port and the backend's URL follow, see `flags`."""
    flags: tuple[str, ...] = ("--port", "{port}", "--backend", "{backend}")
    health: str = "/health"
    peer: bool = False
    asks: bool = True
    """Whether the caller asks for ids and log-probs: only our gateway does so by itself."""
    prints_paths: bool = False
    streams: bool = True
    timed: bool = True
    """Whether its latency is taken, too."""
    share: float = 1.0
    """Of the calls that the others get: it is that slow."""


def _own(script: str, *more: str) -> list[str]:
    return [sys.executable, str(HERE / script), *more]


_LITELLM = ("--config", "litellm.yaml", "--host", "127.0.0.1", "--port", "{port}", "--num_workers", "1")
SIDES = {
    "ours": Side(_own("ours.py"), asks=False, prints_paths=True),
    "ours, SQLite": Side(_own("ours.py", "--home", "sqlite"), asks=False, prints_paths=True),
    "httpx": Side([str(PEERS / "python"), str(HERE / "passthrough.py")], peer=True),
    "LiteLLM": Side([str(PEERS / "litellm")], _LITELLM, "/health/readiness", peer=True, share=0.2),
    "floor": Side(_own("floor.py"), streams=False, timed=False),
    "backend": Side([]),
}
"""By the name that the table gives. `floor` is what a proxy costs that only reads and writes JSON, on our libraries."""


class Server:
    """A running side, in a process of its own and an empty directory."""

    def __init__(self, side: Side, backend: str, folder: str, stack: ExitStack) -> None:
        self.pid = 0
        self.urls = [backend]
        if not side.command:  # the backend itself, which runs already
            return
        (Path(folder) / "litellm.yaml").write_text(json.dumps(_litellm_config(backend)))
        port = free_port()
        flags = [flag.format(port=port, backend=backend) for flag in side.flags]
        process = start([*side.command, *flags], folder, stack, listen=side.prints_paths)
        self.pid = process.pid
        url = f"http://127.0.0.1:{port}"
        paths = json.loads(process.stdout.readline() or "[]") if process.stdout else ["/v1"]
        self.urls = [url + path for path in paths]
        wait_until_healthy(process, url + side.health)


def start(command: Sequence[str], folder: str, stack: ExitStack, *, listen: bool = False) -> subprocess.Popen[str]:
    """A process that ends with `stack`. What it says goes to `notes` in `folder`; with `listen`, stdout can be read."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    notes = stack.enter_context((Path(folder) / "notes").open("a"))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if listen else notes,
        stderr=notes,
        text=True,
    )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def wait_until_healthy(process: subprocess.Popen[str], url: str) -> None:
    """Return when `url` answers 200.

    Raises:
        RuntimeError: the process ended, or takes too long.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ended with exit code {process.returncode} before it answered")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"`{url}` did not answer within {START_S:g} s")


def wait_until_open(process: subprocess.Popen[str], port: int) -> None:
    """Return when something listens on `port`."""
    for _ in range(int(START_S / 0.05)):
        if process.poll() is not None:
            raise RuntimeError(f"ended with exit code {process.returncode} before it listened")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nobody listens on port {port} after {START_S:g} s")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _litellm_config(backend: str) -> dict[str, object]:
    models = [
        {
            "model_name": name,
            "litellm_params": {"model": f"hosted_vllm/{name}", "api_base": backend, "api_key": "none"},
        }
        for name in SHAPES
    ]
    return {"model_list": models, "general_settings": {"master_key": KEY}, "litellm_settings": {"telemetry": False}}
