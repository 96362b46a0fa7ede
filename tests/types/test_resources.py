"""Prompt templates and what a resource is."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from jinja2.exceptions import SecurityError

from agentlightning.types import LLM, PromptTemplate, ProxyLLM, Resource


def test_engines():
    assert PromptTemplate(template="Hello, {name}!").format(name="Ada") == "Hello, Ada!"
    jinja = PromptTemplate(template="{% for n in names %}{{ n|upper }} {% endfor %}", engine="jinja")
    assert jinja.format(names=["a", "b"]) == "A B "


@pytest.mark.skipif(find_spec("poml") is not None, reason="poml is installed")
def test_without_the_poml_package_the_error_names_the_extra():
    with pytest.raises(ImportError, match=r"pip install agentlightning\[poml\]"):
        PromptTemplate(template="<p>{{ a }}</p>", engine="poml").format(a=1)


@pytest.mark.parametrize("template", ["{a} {c}", "{a} {c.title}", "{a:{c}}"])
def test_a_place_that_the_input_keys_leave_out_is_warned_of(template: str):
    with pytest.warns(UserWarning, match="place `c`, which `input_keys` \\['a', 'b'\\] does not list"):
        PromptTemplate(template=template, input_keys=["a", "b"])


@pytest.mark.parametrize("template", ["no places", "{a}", "{a} {b.title} {{c}}", "broken {"])
def test_input_keys_that_are_not_used_are_fine(template: str, recwarn: pytest.WarningsRecorder):
    prompt = PromptTemplate(template=template, input_keys=["a", "b"])
    assert prompt.input_keys == ["a", "b"]
    assert not recwarn.list


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
