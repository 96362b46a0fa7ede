"""Figures of this machine and this process, for heartbeats; takes about 0.2 ms. Keys follow Agent-Lightning 0.3."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import lru_cache
from typing import Any

import psutil

GIB = 2**30
_GPU_FIELDS = ("index", "name", "utilization.gpu", "memory.used", "memory.total")
_GPU_KEYS = ("index", "name", "utilization_pct", "mem_used_mb", "mem_total_mb")


def system_snapshot(include_gpu: bool = False) -> dict[str, Any]:
    """Load of the machine and size of this process.

    Args:
        include_gpu: Ask `nvidia-smi` too, which takes some 50 ms; `gpus` is empty where there is none.

    Returns:
        `host`, `pid`, `cpu_threads`, `cpu_usage_pct` (of all cores, since the last call), `mem_used_gb`,
        `mem_total_gb`, `mem_pct`, `process_rss_gb` (all in GiB), and `gpus` if asked for.
    """
    memory = psutil.virtual_memory()
    found: dict[str, Any] = {
        **_constants(),
        "pid": os.getpid(),
        "cpu_usage_pct": psutil.cpu_percent(interval=None),
        "mem_used_gb": round(memory.used / GIB, 3),
        "mem_total_gb": round(memory.total / GIB, 3),
        "mem_pct": memory.percent,
        "process_rss_gb": round(psutil.Process().memory_info().rss / GIB, 4),
    }
    return {**found, "gpus": _gpus()} if include_gpu else found


@lru_cache(maxsize=1)
def _constants() -> dict[str, Any]:
    return {"host": socket.gethostname(), "platform": sys.platform, "cpu_threads": psutil.cpu_count() or 1}


def _gpus() -> list[dict[str, Any]]:
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):  # no such program, or no device that it can talk to
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [
        dict(zip(("index", "name", "utilization_pct", "mem_used_mb", "mem_total_mb"), row, strict=False))
        for row in rows
    ]
