"""Tool calls in text: found where well formed, left alone where not."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.inference import ParsedCall, parse_tool_calls
from agentlightning.inference.tools import ToolCallReader

CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1 + 2"}}\n</tool_call>'
PARSED = ParsedCall("calculator", {"expression": "1 + 2"})


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, None, [PARSED]),
        ("Let me see.\n" + CALL, "Let me see.", [PARSED]),
        ("Let me see.\n\n" + CALL, "Let me see.\n", [PARSED]),
        (CALL + "\n" + CALL, None, [PARSED, PARSED]),
        (CALL + "\n" + CALL + " done", " done", [PARSED, PARSED]),
        (CALL.removesuffix("</tool_call>"), None, [PARSED]),
        (CALL.removesuffix("\n</tool_call>"), None, [PARSED]),
        ('<tool_call>{"name": "now"}</tool_call>', None, [ParsedCall("now", {})]),
        ('<tool_call>{"name": "say", "arguments": {"text": "ünï </x> \\n"}}</tool_call>', None,
         [ParsedCall("say", {"text": "ünï </x> \n"})]),
    ],
)  # fmt: skip
def test_well_formed_calls(text: str, content: str | None, calls: list[ParsedCall]) -> None:
    assert parse_tool_calls(text) == (content, calls)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no call",
        "  spaces stay \n",
        "<tool_call>",
        "<tool_call></tool_call>",
        '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1 +',
        '<tool_call>{"name": "f", "arguments": {}</tool_call>',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>["name"]</tool_call>',
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
        '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"x": "\\ud800"}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"x": ' + "1" * 5000 + "}}</tool_call>",
    ],
)
def test_what_is_no_call_stays_content(text: str) -> None:
    assert parse_tool_calls(text) == (text, [])


def test_a_broken_call_beside_a_good_one_stays_content() -> None:
    broken = "<tool_call>{oops}</tool_call>"
    assert parse_tool_calls(broken + CALL) == (broken, [PARSED])


PIECES = [*'{}[]":,\n ae1', "<tool_call>", "</tool_call>", '{"name": "f"}', '"arguments"', "\\ud800", "NaN"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_is_too_strange(text: str) -> None:
    content, calls = parse_tool_calls(text)
    assert calls or content == text


@given(st.lists(st.sampled_from([*PIECES, CALL, "text", "\n\n"])), st.data())
def test_pieces_give_what_the_whole_gives(parts: list[str], data: st.DataObject) -> None:
    text, reader = "".join(parts), ToolCallReader()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    found = [item for a, b in itertools.pairwise([0, *cuts, len(text)]) for item in reader.feed(text[a:b])]
    found += reader.finish()
    content, calls = parse_tool_calls(text)
    assert [item for item in found if isinstance(item, ParsedCall)] == calls
    assert "".join(item for item in found if isinstance(item, str)) == (content or "")


def test_clear_text_is_not_held_back() -> None:
    reader = ToolCallReader()
    assert reader.feed("Let me") == ["Let me"]
    assert reader.feed(" see <to") == [" see "]
    assert reader.feed("ols>\n") == ["<tools>"]
    assert reader.feed(CALL + " and") == [PARSED, " and"]
    assert reader.finish() == []


@given(
    name=st.text(st.characters(codec="utf-8"), min_size=1),
    arguments=st.dictionaries(
        st.text(st.characters(codec="utf-8")), st.none() | st.integers() | st.lists(st.booleans())
    ),
)
def test_every_call_survives_the_way_to_text_and_back(name: str, arguments: dict[str, object]) -> None:
    body = json.dumps({"name": name, "arguments": arguments})
    if "</tool_call>" not in body:
        assert parse_tool_calls(f"<tool_call>\n{body}\n</tool_call>") == (None, [ParsedCall(name, arguments)])
