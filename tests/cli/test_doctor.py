"""`agl doctor`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import Any

from agentlightning.cli.doctor import CAPABILITIES, capability, packages


def test_json_tells_what_is_here(agl: Any) -> None:
    report = json.loads(agl("doctor", "--json").stdout)
    assert report["machine"]["python"] == platform.python_version()
    assert report["machine"]["cores"] >= 1
    assert report["packages"]["torch"]["version"] == importlib.metadata.version("torch")
    assert report["packages"]["torch"]["extras"] == ["verl"]
    assert report["packages"]["pydantic"]["extras"] == []
    assert {entry["device"] for entry in report["devices"]} == {"cpu", "cuda", "mps"}
    assert report["devices"][0]["available"]
    ready = {entry["name"]: entry["ready"] for entry in report["capabilities"]}
    assert ready["VERL on the native engine"]
    assert ready["APO: prompts instead of weights"]
    assert not ready["SFT on the best rollouts"]


def test_the_table_has_every_capability(agl: Any) -> None:
    done = agl("doctor")
    assert done.returncode == 0
    assert all(name in done.stdout for name, _, _ in CAPABILITIES)
    assert "not in this version" in done.stdout


def test_a_missing_package_is_named_with_its_extra() -> None:
    without = {**packages(), "torch": {"version": None, "extras": ["verl"]}}
    found = capability("training", ("torch", "transformers"), "fine", without)
    assert not found["ready"]
    assert found["detail"] == "needs torch: pip install 'agentlightning[verl]'"
    assert capability("training", ("transformers",), "fine", without)["detail"] == "fine"


def test_every_package_that_something_needs_is_declared() -> None:
    assert {name for _, needs, _ in CAPABILITIES for name in needs or ()} <= set(packages())
