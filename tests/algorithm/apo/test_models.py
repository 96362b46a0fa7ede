"""Whom to ask and with which texts: users' files are checked before anything is paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentlightning.algorithm.apo.meta_prompts import CRITICS, EDITORS
from agentlightning.algorithm.apo.models import Models
from agentlightning.algorithm.apo.strategies.proposers.common import rules
from agentlightning.types import ConfigError, PromptTemplate


def test_without_files_our_own_texts_are_used() -> None:
    models = Models()
    assert (models.critics, models.editors) == (CRITICS, EDITORS)
    assert models.describe()["gradient_model"] == "gpt-5-mini"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{{ prompt_template }} {{ experiment }}",
            "uses `experiment`, which there is not; it may use `prompt_template`",
        ),
        ("{{ critique }}", "uses `critique`"),
        ("{% for x in experiments %}", "can't be used as a template"),
    ],
)
def test_a_text_that_could_not_be_filled_in_is_refused_at_once(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        Models(gradient_prompt_files=[path])
    assert "`gradient_prompt_files`" in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`apply_edit_prompt_files`: .*none\.jinja can't be used"):
        Models(apply_edit_prompt_files=[tmp_path / "none.jinja"])


@pytest.mark.parametrize("files", ["one.jinja", Path("one.jinja"), []])
def test_files_are_a_list(files: Any) -> None:
    with pytest.raises(ConfigError, match="must be a list of paths"):
        Models(gradient_prompt_files=files)


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_model_has_a_name(name: Any) -> None:
    with pytest.raises(ConfigError, match="`apply_edit_model` must be the name of a model"):
        Models(apply_edit_model=name)


def test_texts_of_a_user_can_not_reach_into_the_program(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{{ prompt_template.__class__.__mro__ }}")
    from jinja2.exceptions import SecurityError

    with pytest.raises(SecurityError):
        Models(gradient_prompt_files=[path]).critics[0].message(prompt_template="x")


def test_prompts_that_hold_template_syntax_stay_as_they_are() -> None:
    given = {
        "prompt_template": "Say {{ x }} {% if %} {y}",
        "component": "p",
        "others": [],
        "rules": "",
        "critique": "{{ 1 }}",
    }
    for meta in EDITORS:
        text = meta.message(**given)[0]["content"]
        assert "<prompt>\nSay {{ x }} {% if %} {y}\n</prompt>" in text
        assert "{{ 1 }}" in text


def test_rules_name_the_placeholders_in_the_prompts_own_syntax() -> None:
    assert "exactly so: {a}, {b}." in rules(PromptTemplate(template="{b} {a}"))
    assert "{{ a }}" in rules(PromptTemplate(template="{{ a }}", engine="jinja"))
    assert "curly brace" in rules(PromptTemplate(template="{a}"))
    assert rules(PromptTemplate(template='Reply as {"room": 1} to {a}')).splitlines() == [
        "- Keep each of these placeholders, spelled exactly so: {a}. They are filled in later."
    ]  # its braces are no doubled ones
    extra = rules(PromptTemplate(template="Be helpful.", input_keys=["user_input"]))
    assert "It may also use {user_input}." in extra
    assert "exactly so" not in extra
