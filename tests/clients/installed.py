"""Clients with an environment of their own, which `make clients` builds in `.clients/`.

Where one is missing its tests skip, unless the environment variable AGL_REQUIRE names `clients` (CI), then they fail.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def client_environment(name: str) -> Path:
    """Where the client `name` is installed."""
    place = ROOT / ".clients" / name
    if (place / ".installed").exists():
        return place
    if "clients" in os.environ.get("AGL_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"AGL_REQUIRE names clients, and {name} is not in .clients/; run `make clients`")
    pytest.skip(f"{name} is not installed; `make clients` does it")
