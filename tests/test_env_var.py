"""Variables, arguments and defaults."""

from __future__ import annotations

import pytest

from agentlightning.env_var import (
    LightningEnvVar,
    resolve_bool_env_var,
    resolve_int_env_var,
    resolve_str_env_var,
)

ROLE, PORT, MANAGED = (
    LightningEnvVar.AGL_CURRENT_ROLE,
    LightningEnvVar.AGL_SERVER_PORT,
    LightningEnvVar.AGL_MANAGED_STORE,
)


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_what_is_true(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGL_MANAGED_STORE", text)
    assert resolve_bool_env_var(MANAGED, fallback=False) is True
    assert resolve_bool_env_var(MANAGED, False) is False


@pytest.mark.parametrize("text", ["0", "False", "no", "OFF"])
def test_what_is_false(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGL_MANAGED_STORE", text)
    assert resolve_bool_env_var(MANAGED, fallback=True) is False
    assert resolve_bool_env_var(MANAGED, True) is True


def test_the_order_is_argument_variable_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AGL_SERVER_PORT", raising=False)
    monkeypatch.delenv("AGL_CURRENT_ROLE", raising=False)
    assert resolve_int_env_var(PORT) is None
    assert resolve_int_env_var(PORT, fallback=4747) == 4747
    assert resolve_str_env_var(ROLE, fallback="both") == "both"
    monkeypatch.setenv("AGL_SERVER_PORT", "5000")
    monkeypatch.setenv("AGL_CURRENT_ROLE", "runner")
    assert resolve_int_env_var(PORT, fallback=4747) == 5000
    assert resolve_int_env_var(PORT, 6000, fallback=4747) == 6000
    assert resolve_str_env_var(ROLE, fallback="both") == "runner"
    assert resolve_str_env_var(ROLE, "algorithm") == "algorithm"


def test_nonsense_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGL_MANAGED_STORE", "maybe")
    monkeypatch.setenv("AGL_SERVER_PORT", "http")
    with pytest.raises(ValueError, match=r"`AGL_MANAGED_STORE` is 'maybe'; set it to one of 1, true"):
        resolve_bool_env_var(MANAGED)
    with pytest.raises(ValueError, match="`AGL_SERVER_PORT` is 'http'; set it to a whole number"):
        resolve_int_env_var(PORT)
