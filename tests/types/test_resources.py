"""Prompt templates and what a resource is."""

from __future__ import annotations

import pytest
from jinja2.exceptions import SecurityError

from agentlightning.types import LLM, PromptTemplate, ProxyLLM, Resource


def test_engines():
    assert PromptTemplate(template="Hello, {name}!").format(name="Ada") == "Hello, Ada!"
    jinja = PromptTemplate(template="{% for n in names %}{{ n|upper }} {% endfor %}", engine="jinja")
    assert jinja.format(names=["a", "b"]) == "A B "
    poml = PromptTemplate(template="<poml/>", engine="poml")
    with pytest.raises(NotImplementedError, match="poml"):
        poml.format()


@pytest.mark.parametrize("engine", ["f-string", "jinja"])
def test_a_missing_name_is_an_error(engine: str):
    template = {"f-string": "{a} {b}", "jinja": "{{ a }} {{ b }}"}[engine]
    with pytest.raises(KeyError, match="b"):
        PromptTemplate(template=template, engine=engine).format(a=1)  # type: ignore[arg-type]


def test_jinja_can_not_leave_its_sandbox():
    with pytest.raises(SecurityError):
        PromptTemplate(template="{{ ''.__class__.__mro__[1].__subclasses__() }}", engine="jinja").format()


def test_all_resources_are_resources():
    for value in (PromptTemplate(template="x"), LLM(endpoint="e", model="m"), ProxyLLM(endpoint="e", model="m")):
        assert isinstance(value, Resource)
