"""Figures of this machine."""

from __future__ import annotations

import os
import socket

import orjson

from agentlightning.utils.system_snapshot import system_snapshot


def test_the_figures_are_of_this_machine_and_process():
    found = system_snapshot()
    assert found["host"] == socket.gethostname()
    assert found["pid"] == os.getpid()
    assert found["cpu_threads"] >= 1
    assert 0 <= found["cpu_usage_pct"] <= 100
    assert 0 < found["mem_used_gb"] < found["mem_total_gb"]
    assert 0 < found["process_rss_gb"] < found["mem_total_gb"]
    assert "gpus" not in found
    assert orjson.loads(orjson.dumps(found)) == found


def test_gpus_are_asked_for_only_when_wanted():
    assert isinstance(system_snapshot(include_gpu=True)["gpus"], list)
