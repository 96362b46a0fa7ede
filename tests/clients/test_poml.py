"""Prompts of the engine `poml` are rendered by POML itself, which starts a Node.js program each time."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from agentlightning.types import PromptTemplate

from .installed import client_environment


@pytest.fixture(autouse=True)
def _poml(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    place = client_environment("poml") / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "poml"]:
        del sys.modules[name]  # the other tests don't have it


def test_a_poml_prompt_is_filled_in():
    template = "<poml><role>You book rooms.</role><task>Find a room for {{ count }} and {{ who.name }}.</task></poml>"
    text = PromptTemplate(template=template, engine="poml").format(count=3, who={"name": "Ada"})
    assert text == "# Role\n\nYou book rooms.\n\n# Task\n\nFind a room for 3 and Ada."


def test_a_missing_name_is_a_key_error():
    with pytest.raises(KeyError, match="count"):
        PromptTemplate(template="<p>{{ count }}</p>", engine="poml").format(who="Ada")


def test_what_is_no_poml_is_a_value_error():
    with pytest.raises(ValueError, match="no POML"):
        PromptTemplate(template="<p>{{ count }}", engine="poml").format(count=1)
