"""The tree of spans: hierarchy, agents, judges within rewards, and which reward belongs to which call."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentlightning.adapter import RewardMatchPolicy, TracerTraceToTriplet, TraceTree
from agentlightning.adapter.tree import name_agents
from agentlightning.types import Span, Triplet

from .spans import llm_call, reward, span

FIRST_SIBLING = RewardMatchPolicy.FIRST_SIBLING


def within(made: Span, start: float, end: float, parent: int | None = None) -> Span:
    """The span at these times, below the span with sequence id `parent`; its own id is its sequence id."""
    made.start_time, made.end_time = start, end
    made.span_id, made.parent_id = str(made.sequence_id), None if parent is None else str(parent)
    return made


def agent(sequence_id: int, name: str, start: float, end: float, parent: int | None = 1) -> Span:
    return within(span(sequence_id, "agent", {"agent.name": name}), start, end, parent)


def call(sequence_id: int, start: float, end: float, parent: int | None = None) -> Span:
    return within(llm_call(sequence_id, [sequence_id], [100]), start, end, parent)


def paid(sequence_id: int, value: float, start: float, end: float | None = None, parent: int | None = 1) -> Span:
    return within(reward(sequence_id, value), start, start if end is None else end, parent)


ROOT = within(span(1, "run", {}), 0, 100)


def seen(triplets: list[Triplet]) -> list[tuple[int, str, float | None]]:
    """(sequence id of the call, agent, reward) of each."""
    return [(t.prompt["token_ids"][0], t.metadata["agent_name"], t.reward) for t in triplets]


TWO_AGENTS = [
    ROOT,
    agent(2, "planner", 1, 5),
    call(3, 2, 3),
    agent(4, "writer", 6, 10),
    call(5, 7, 8),
    paid(6, 1.0, 11),
]


def test_spans_of_the_gateway_are_hung_below_the_agent_that_encloses_them() -> None:
    assert seen(TracerTraceToTriplet()(TWO_AGENTS)) == [(3, "planner", None), (5, "writer", 1.0)]
    assert seen(TracerTraceToTriplet(repair_hierarchy=False)(TWO_AGENTS)) == [(3, "*", None), (5, "*", 1.0)]


def test_the_tightest_span_takes_a_floating_one_and_calls_take_nobody() -> None:
    spans = [ROOT, agent(2, "outer", 1, 20), agent(3, "inner", 4, 9, parent=2), call(4, 5, 8), call(5, 6, 7)]
    tree = TraceTree.from_spans(spans)
    tree.repair_hierarchy()
    assert tree.names_tuple() == (
        "agentlightning.virtual",
        [
            (
                "run",
                [
                    (
                        "agent [outer]",
                        [("agent [inner]", [("openai.chat.completion", []), ("openai.chat.completion", [])])],
                    )
                ],
            )
        ],
    )


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("planner", [(3, "planner", None), (6, "planner", 1.0)]),
        ("^plan", [(3, "planner", None), (6, "planner", 1.0)]),
        ("writer", [(5, "writer", 1.0)]),
        ("nobody", []),
    ],
)
def test_the_nearest_agent_must_match(match: str, expected: list[Any]) -> None:
    spans = [
        ROOT,
        agent(2, "planner", 1, 20),
        call(3, 2, 3, 2),
        agent(4, "writer", 6, 10, parent=2),
        call(5, 7, 8, 4),
        call(6, 12, 13, 2),
        paid(7, 1.0, 25),
    ]
    assert seen(TracerTraceToTriplet(agent_match=match)(spans)) == expected


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("any", {"agent.name": "a"}),
        ("any", {"gen_ai.agent.name": "a"}),
        ("any", {"agentops.span.kind": "agent", "operation.name": "a"}),
        ("any", {"recipient_agent_type": "a"}),
        ("any", {"langchain.chain.type": "a"}),
        ("any", {"executor.id": "a"}),
        ("any", {"type": "agent", "agentlightning.operation.input.name": "a"}),
        ("langchain.Chain.x", {"lc_name": "a"}),
    ],
)
def test_agents_are_known_by_the_attributes_of_their_frameworks(name: str, attributes: dict[str, Any]) -> None:
    spans = [within(span(1, name, attributes), 0, 9), call(2, 1, 2)]
    assert seen(TracerTraceToTriplet()(spans)) == [(2, "a", None)]


def test_operations_and_other_names_are_no_agents() -> None:
    spans = [within(span(1, "any", {"operation.name": "a", "lc_name": "a", "type": "tool"}), 0, 9), call(2, 1, 2)]
    assert seen(TracerTraceToTriplet()(spans)) == [(2, "*", None)]


def test_calls_of_a_judge_are_left_out() -> None:
    spans = [ROOT, call(2, 1, 2, 1), call(3, 4, 5), paid(4, 0.9, 3, 6)]
    assert seen(TracerTraceToTriplet()(spans)) == [(2, "*", 0.9)]
    # kept, the judge's own call still doesn't earn the reward that it is a part of
    assert seen(TracerTraceToTriplet(exclude_llm_call_in_reward=False)(spans)) == [(2, "*", 0.9), (3, "*", None)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("first_occurrence", [None, 0.2]), ("first_sibling", [0.2, None])],
)
def test_a_reward_may_be_for_siblings_only(policy: str, expected: list[float | None]) -> None:
    spans = [
        ROOT,
        agent(2, "planner", 1, 10),
        call(3, 2, 3, 2),
        agent(5, "writer", 6, 10),
        call(6, 7, 8, 5),
        paid(7, 0.2, 9, parent=2),
    ]
    assert [t.reward for t in TracerTraceToTriplet(reward_match=policy)(spans)] == expected


def test_rewards_are_handed_out_backwards_one_a_call() -> None:
    spans = [ROOT, call(2, 1, 2, 1), call(3, 3, 4, 1), paid(4, 0.1, 5), paid(5, 0.2, 6), paid(6, 0.3, 7)]
    for policy in RewardMatchPolicy:
        assert [t.reward for t in TracerTraceToTriplet(reward_match=policy)(spans)] == [0.2, 0.1]


def test_wrong_settings_are_refused_at_once() -> None:
    with pytest.raises(re.error):
        TracerTraceToTriplet(agent_match="(")
    with pytest.raises(ValueError, match="third_cousin"):
        TracerTraceToTriplet(reward_match="third_cousin")


def test_spans_that_name_each_other_as_parents_still_make_a_tree() -> None:
    spans = [within(span(n, f"s{n}", {}), 0, 1, parent) for n, parent in ((1, 2), (2, 1), (3, 3), (4, 99))]
    tree = TraceTree.from_spans(spans)
    assert sorted(node.span.name for node in tree.traverse()[1:]) == ["s1", "s2", "s3", "s4"]
    tree.repair_hierarchy()
    assert len(tree.traverse()) == 5


def test_what_a_tree_tells() -> None:
    tree = TraceTree.from_spans([ROOT, agent(2, "a", 1, 5), paid(3, 0.5, 6)])
    assert (tree.start_time, tree.end_time, tree.agent_name()) == (0, 100, None)
    assert tree.maybe_reward_dict() == {}
    found = tree.find_id("3")
    assert found is not None
    assert (found.is_reward_span(), found.maybe_reward_dict()) == (True, {"type": "reward", "value": 0.5})
    assert tree.find_id("9") is None
    data = tree.to_json()
    assert [child["id"] for child in data["children"]] == ["2", "3"]
    assert data["span"]["name"] == "run"
    with pytest.raises(ValueError, match="at least one span"):
        TraceTree.from_spans([])


def test_the_picture_is_graphviz_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    tree = TracerTraceToTriplet().visualize(TWO_AGENTS, str(tmp_path / "trace"), "openai")
    text = (tmp_path / "trace.dot").read_text()
    assert text.startswith("digraph trace {")
    assert '"2" [label="agent [planner]"];' in text
    assert '"2" -> "3";' in text
    assert "agentlightning.reward" not in text, "neither it nor anything below it matches"
    assert tree.find_id("3") is not None
    assert not (tmp_path / "trace.png").exists()


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_the_picture_is_drawn_where_graphviz_is(tmp_path: Path) -> None:
    TraceTree.from_spans(TWO_AGENTS).visualize(str(tmp_path / "trace"))
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")


def test_an_agents_own_span_of_a_call_names_it_better_than_time_does() -> None:
    """Two agents at once: both enclose both calls, but each client's instrumentation recorded its own."""
    spans = [
        ROOT,
        agent(2, "a", 1, 20),
        agent(3, "b", 1, 19),
        within(span(4, "chat", {"gen_ai.response.id": "chat-5"}), 2, 9, 2),
        call(5, 3, 8),
        call(6, 3, 8),
    ]
    names = name_agents(spans)
    assert (names["5"], names["6"]) == ("a", "b")
    assert name_agents([ROOT, call(5, 3, 8)]) == {}
