"""What a candidate prompt must keep, for each template engine."""

from __future__ import annotations

import pytest

from agentlightning.algorithm.apo.guard import literals, placeholders, problem_with
from agentlightning.types import PromptTemplate


def problem(candidate: str, start: str, engine: str = "f-string", keys: list[str] | None = None) -> str | None:
    given = PromptTemplate(template=start, engine=engine, input_keys=keys)  # type: ignore[arg-type]
    return problem_with(given.model_copy(update={"template": candidate}), given)


@pytest.mark.parametrize(
    ("candidate", "start", "found"),
    [
        ("Answer {x}", "Say {x}", None),
        (" \n", "Say {x}", "empty"),
        ("Answer", "Say {x}", "lost placeholder {x}"),
        ("Answer {{x}}", "Say {x}", "lost placeholder {x}"),
        ("Answer {x} {y}", "Say {x}", "unknown placeholder {y}"),
        ("Answer {x} {}", "Say {x}", "unknown placeholder {}"),
        ("Answer {x} {0}", "Say {x}", "unknown placeholder {0}"),
        ('Answer {x} as {{"a": 1}}', "Say {x}", None),
        ('Answer {x} as {"a": 1}', "Say {x}", 'unknown placeholder {"a"}'),
        ("Answer {x} }", "Say {x}", "does not render: Single '}' encountered in format string"),
        ("Answer {x!q}", "Say {x}", "does not render: ValueError: Unknown conversion specifier q"),
        ("Answer {x:.3f}", "Say {x}", None),
        ("Answer {x:%Y}", "Say {x:%Y}", None),
        (
            "Answer {x: please}",
            "Say {x}",
            "does not render: ValueError: no text and no number has the format ' please'",
        ),
        ("Answer {x:>40}", "Say {x}", None),
        (
            "Answer {x:>99999999999}",
            "Say {x}",
            "does not render: ValueError: the format '>99999999999' makes a text of more than 20000 characters",
        ),
        ("Answer {x.title}", "Say {x.title} of {x.date}", "lost placeholder {x.date}"),
        ("Answer {x.title} {x.price}", "Say {x.title}", "unknown placeholder {x.price}"),
        ("Answer {x[title]}", "Say {x[title]}", None),
        ("long " * 4001 + "{x}", "Say {x}", "too long"),
    ],
)
def test_f_strings(candidate: str, start: str, found: str | None):
    assert problem(candidate, start) == found


def test_input_keys_may_be_used_and_need_not_be():
    start = "You are a helpful assistant."
    assert problem("You are kind.", start, keys=["user_input"]) is None
    assert problem("You are kind: {user_input}", start, keys=["user_input"]) is None
    assert problem("{user_input.text}", start, keys=["user_input"]) is None
    assert problem("You are kind: {user}", start, keys=["user_input"]) == "unknown placeholder {user}"


def test_a_start_that_the_agent_fills_in_by_its_own_means_demands_no_more_than_its_places():
    start = 'Reply as {"room": "A1"} to {request}'
    assert problem('Always reply as {"room": 1} to {request}}', start) is None
    assert problem('Always reply as {"room": 1}', start) == "lost placeholder {request}"
    assert literals(PromptTemplate(template=start)) == ['Reply as {"room": "A1"} to ']


def test_a_long_start_may_have_long_candidates():
    start = "word " * 4000
    assert problem("other " * 10_000, start) is None
    assert problem("other " * 14_000, start) == "too long"


@pytest.mark.parametrize(
    ("candidate", "found"),
    [
        ("Answer {{ x }}", None),
        ("Answer {x}", "lost placeholder {x}"),
        ("{% for each in x %}{{ loop.index }} {{ each.name }} {% endfor %}", None),
        ("{% if x > 3 %}{{ x }}{% endif %}", None),
        ("{{ x | upper }}", None),
        ("{% if x %}yes{% endif %}", "lost placeholder {x}"),
        ("{% if false %}{{ x }}{% endif %}", "lost placeholder {x}"),
        ("{{ x }} {{ 1 / 0 }}", "does not render: ZeroDivisionError: division by zero"),
        ("{{ x }} {% include 'rules' %}", "does not render: TemplateNotFound: rules"),
        (
            "{% for each in x recursive %}{{ loop(x) }}{% endfor %}",
            "does not render: RecursionError: maximum recursion depth exceeded",
        ),
        ("{{ x }} {{ y }}", "unknown placeholder {y}"),
        ("{{ x }} {% if %}", "does not render: Expected an expression, got 'end of statement block'"),
        (
            "{{ x.__class__ }}",
            "does not render: SecurityError: access to attribute '__class__' of '_Sample' object is unsafe.",
        ),
    ],
)
def test_jinja(candidate: str, found: str | None):
    assert problem(candidate, "Say {{ x }}", "jinja") == found


def test_a_jinja_place_that_the_start_only_asks_about_need_not_show():
    start = "{% if brief %}Be brief.{% endif %} Say {{ x }}"
    assert problem("{% if brief %}Short!{% endif %} {{ x }}", start, "jinja") is None
    assert problem("{% if brief %}{{ x }}{% endif %}", start, "jinja") is None
    assert problem("{{ x }}", start, "jinja") == "lost placeholder {brief}"


@pytest.mark.parametrize(
    ("candidate", "found"),
    [
        ('<p>{{ x.title }}</p><item for="each in names">{{ each }}</item>', None),
        ('<p if="x">yes <br/></p><item for="each in names">{{ each }}</item>', None),
        ("<p>{{ x }}</p>", "lost placeholder {names}"),
        ("<p>{{ x }} {{ names }} {{ y }}</p>", "unknown placeholder {y}"),
        ("<p>{{ x }} {{ names }}", "does not render: <p> is not closed"),
        ("<p>{{ x }} {{ names }}</q></p>", "does not render: </q> closes nothing that is open"),
    ],
)
def test_poml(candidate: str, found: str | None):
    start = '<p>{{ x + "y" }}</p><item for="i in names">{{ i.id }}</item>'
    assert problem(candidate, start, "poml") == found


def test_literal_parts_are_found_in_what_is_rendered():
    template = PromptTemplate(template="Use {{a}} for {x}, {y}\n\n{x}")
    assert literals(template) == ["Use {a} for ", ", "]
    assert all(part in template.format(x="one", y="two") for part in literals(template))
    assert literals(PromptTemplate(template="Hi {{ x }}!{% if y %} Ho{% endif %}", engine="jinja")) == [
        "Hi ",
        "!",
        " Ho",
    ]
    assert literals(PromptTemplate(template="<p>Hi {{ x }}</p>", engine="poml")) == ["Hi"]
    assert literals(PromptTemplate(template="{x}")) == []


def test_placeholders_by_engine():
    assert placeholders(PromptTemplate(template="{a} {b.c} {d:{e}} {{f}}")) == {"a", "b.c", "d", "e"}
    jinja = "{% set a = b %}{{ a }} {{ c.d }} {{ range(3) }}"
    assert placeholders(PromptTemplate(template=jinja, engine="jinja")) == {"b", "c"}
    poml = '<let name="a">1</let>{{ a }} {{ b.c.map(d) }} {{ "e" }}'
    assert placeholders(PromptTemplate(template=poml, engine="poml")) == {"b", "d"}
