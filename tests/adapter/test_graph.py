"""The token graph: hand-written cases, and the invariants over random multi-agent traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.adapter import TokenGraph
from agentlightning.adapter.breaks import compare_text
from agentlightning.types import TokenCall


def call(
    prompt: list[int],
    response: list[int],
    *,
    version: int = 0,
    finish: str = "stop",
    logprobs: bool = True,
    model: str = "m",
):
    return TokenCall(
        model=model,
        prompt_ids=np.array(prompt, np.int32),
        response_ids=np.array(response, np.int32),
        logprobs=-np.arange(1, len(response) + 1, dtype=np.float32) if logprobs else None,
        finish_reason=finish,
        weights_version=version,
    )


def held(graph: TokenGraph) -> list[tuple[list[int], list[bool]]]:
    return [(t.token_ids.tolist(), t.sampled.tolist()) for t in graph.assemble()[0]]


def test_a_conversation_is_one_trajectory() -> None:
    graph = TokenGraph([call([1, 2], [3, 4], version=1), call([1, 2, 3, 4, 5], [6], version=2)])
    (trajectory,), _ = graph.assemble()
    assert trajectory.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert trajectory.sampled.tolist() == [False, False, True, True, False, True]
    assert trajectory.logprobs.tolist() == [0, 0, -1, -2, 0, -1]
    assert trajectory.versions.tolist() == [-1, -1, 1, 1, -1, 2]
    assert trajectory.turns.tolist() == [-1, -1, 0, 0, -1, 1]
    assert [node.token_ids.tolist() for node in graph.nodes] == [[1, 2], [3, 4], [5], [6]]
    assert graph.breaks == []


def test_array_types_are_those_of_the_contract() -> None:
    (trajectory,), _ = TokenGraph([call([1], [2])]).assemble()
    kinds = [getattr(trajectory, name).dtype for name in ("token_ids", "sampled", "logprobs", "versions", "turns")]
    assert kinds == [np.int32, np.bool_, np.float32, np.int32, np.int32]


def test_interleaved_agents_become_trajectories_of_their_own() -> None:
    graph = TokenGraph(
        [
            call([1, 2], [3]),
            call([8, 9], [7]),
            call([1, 2, 3, 4], [5]),
            call([8, 9, 7, 6], [5, 5]),
        ]
    )
    assert held(graph) == [
        ([1, 2, 3, 4, 5], [False, False, True, False, True]),
        ([8, 9, 7, 6, 5, 5], [False, False, True, False, True, True]),
    ]
    assert graph.breaks == []


def test_several_samples_of_one_prompt_share_it_and_the_chosen_one_goes_on() -> None:
    graph = TokenGraph([call([1, 2], [3]), call([1, 2], [4]), call([1, 2], [3]), call([1, 2, 4, 5], [6])])
    assert [node.token_ids.tolist() for node in graph.nodes] == [[1, 2], [3], [4], [3], [5], [6]]
    assert held(graph) == [
        ([1, 2, 3], [False, False, True]),
        ([1, 2, 3], [False, False, True]),
        ([1, 2, 4, 5, 6], [False, False, True, False, True]),
    ]
    assert graph.breaks == []


def test_a_shared_stem_is_trained_in_its_first_branch_only() -> None:
    graph = TokenGraph([call([1], [2, 3]), call([1, 2, 3, 4], [5]), call([1, 2, 3, 6], [7])])
    first, second = graph.assemble()[0]
    assert first.token_ids.tolist() == [1, 2, 3, 4, 5]
    assert first.sampled.tolist() == [False, True, True, False, True]
    assert second.token_ids.tolist() == [1, 2, 3, 6, 7]
    assert second.sampled.tolist() == [False, False, False, False, True]
    assert second.turns.tolist() == [-1, -1, -1, -1, 2]
    assert second.logprobs.tolist() == [0, 0, 0, 0, -1]


def test_a_compacted_context_is_another_root_and_no_break() -> None:
    stem = [1, 2, 3, 4]
    graph = TokenGraph([call([*stem, 5], [6, 7]), call([*stem, 5, 6, 7, 8], [9]), call([*stem, 90, 91], [92])])
    assert [ids for ids, _ in held(graph)] == [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 90, 91, 92]]
    assert graph.breaks == []


def test_the_longest_context_is_continued() -> None:
    graph = TokenGraph([call([1], [2]), call([1, 2, 3], [4]), call([1, 2, 3, 4, 5], [6]), call([1, 2, 9], [8])])
    assert [ids for ids, _ in held(graph)] == [[1, 2, 3, 4, 5, 6], [1, 2, 9, 8]]


def test_an_empty_response_is_a_turn_without_trained_tokens() -> None:
    graph = TokenGraph([call([1, 2], []), call([1, 2], [3]), call([1, 2, 3, 4], [])])
    trajectories, calls = graph.assemble()
    assert [t.token_ids.tolist() for t in trajectories] == [[1, 2], [1, 2, 3, 4]]
    assert [int(t.sampled.sum()) for t in trajectories] == [0, 1]
    assert [c.response_ids.tolist() for c in calls] == [[], [3], []]


def test_no_calls_no_trajectories() -> None:
    assert TokenGraph().assemble() == ([], [])


def test_missing_logprobs_are_nan_and_not_zero() -> None:
    (trajectory,), _ = TokenGraph([call([1], [2, 3], logprobs=False)]).assemble()
    assert trajectory.logprobs[0] == 0
    assert np.isnan(trajectory.logprobs[1:]).all()


def test_newer_tokens_are_never_the_past_of_older_ones() -> None:
    graph = TokenGraph([call([1], [2], version=5), call([1, 2, 3], [4], version=4), call([1], [9], version=4)])
    assert [ids for ids, _ in held(graph)] == [[1, 2], [1, 2, 3, 4], [1, 9]]
    shared = TokenGraph([call([1], [2], version=5), call([1, 2, 3], [4], version=6), call([1, 2, 3], [4], version=4)])
    assert [node.token_ids.tolist() for node in shared.path(2)] == [[1, 2, 3], [4]]


def test_calls_of_two_models_never_join() -> None:
    """Even where the numbers agree: they are tokens of two tokenizers, and only one model is the policy."""
    graph = TokenGraph([call([1], [2]), call([1, 2, 3], [4], model="other"), call([1], [5], model="other")])
    assert [ids for ids, _ in held(graph)] == [[1, 2], [1, 2, 3, 4], [1, 5]]
    assert graph.breaks == []


def test_a_conversation_of_16k_tokens_is_held_once() -> None:
    """Ids, log-probs and masks of 50 turns; the figure itself is `benchmarks/graph.py`'s."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 150_000, 16_384, np.int32)
    contexts = [tokens[: 16_384 * (turn + 1) // 50] for turn in range(50)]
    trajectories, calls = TokenGraph(call(each[:-100].tolist(), each[-100:].tolist()) for each in contexts).assemble()
    owners = {
        id(a.base if a.base is not None else a): a.base if a.base is not None else a
        for t in trajectories
        for a in [t.token_ids]
    }
    for made in calls:
        for array in (made.prompt_ids, made.response_ids, made.logprobs):
            root = array
            while isinstance(root.base, np.ndarray):
                root = root.base
            owners[id(root)] = root
    assert sum(array.nbytes for array in owners.values()) == 4 * 16_384 + 4 * 50 * 100


def test_calls_come_back_as_views_into_their_trajectories() -> None:
    context, calls = [1, 2, 3], []
    for turn in range(50):
        calls.append(call(context, [turn, 7]))
        context = [*context, turn, 7, *range(100)]
    trajectories, views = TokenGraph(calls).assemble()
    (trajectory,) = trajectories
    for view, original in zip(views, calls, strict=True):
        assert view.prompt_ids.tolist() == original.prompt_ids.tolist()
        assert view.response_ids.tolist() == original.response_ids.tolist()
        assert np.shares_memory(view.prompt_ids, trajectory.token_ids)


# -- breaks ----------------------------------------------------------------------------------------------------

PROMPT = [1, 2, 3, 4, 5]
ANSWER = [10, 11, 12, 13, 14, 15, 16, 2]
MORE = [20, 21, 22, 23, 24]


@pytest.mark.parametrize(
    ("second", "finish", "expected"),
    [
        ([*PROMPT, 10, 11, 98, 99, 14, 15, 16, 2, *MORE], "stop", "[12, 13] became [98, 99]; the answer came back as"),
        ([*PROMPT, 10, 98, 12, 13, 14, 15, 16, 2, *MORE], "tool_calls", "[11] became [98]; the answer was a tool call"),
        ([*PROMPT, 13, 14, 15, 16, 2, *MORE], "stop", "[10, 11, 12] became []; 3 tokens of the answer left out"),
        ([*PROMPT, 98, *ANSWER, *MORE], "stop", "[] became [98]; 1 token put into the answer"),
        ([*PROMPT, *ANSWER[:-1], 99, *MORE], "stop", "only the answer's last token differs"),
        (
            [1, 2, 3, 4, 70, 71, 5, *ANSWER, *MORE],
            "stop",
            "(in its prompt): [] became [70, 71]; 2 tokens",
        ),
        ([*PROMPT, 40, 41, 42, 43], "stop", "the answer came back as other tokens"),
    ],
)
def test_a_break_says_where_and_what(second: list[int], finish: str, expected: str) -> None:
    graph = TokenGraph([call(PROMPT, ANSWER, finish=finish), call(second, [50])])
    (line,) = map(str, graph.breaks)
    assert line.startswith("turn 1: the prompt departs from turn 0 at token ")
    assert expected in line
    assert len(graph.assemble()[0]) == 2


def test_truncated_history_is_told() -> None:
    first = [*PROMPT, *range(30, 40), *MORE]
    graph = TokenGraph([call(first, ANSWER), call([*PROMPT, *MORE, *ANSWER, 60], [61])])
    (line,) = map(str, graph.breaks)
    assert "at token 5 (in its prompt)" in line
    assert "10 tokens left out: truncated history" in line
    assert "[30, 31, 32, 33, 34, 35, 36, 37, ...] became []" in line


def test_each_turn_of_a_template_that_drops_thinking_is_told() -> None:
    think = [90, 91, 92, 93]
    graph = TokenGraph(
        [
            call(PROMPT, [*think, *ANSWER]),
            call([*PROMPT, *ANSWER, *MORE], [*think, *ANSWER]),
            call([*PROMPT, *ANSWER, *MORE, *ANSWER, *MORE], [50]),
        ]
    )
    assert [str(found).split(":")[0] for found in graph.breaks] == ["turn 1", "turn 2"]
    assert "departs from turn 0 at token 5" in str(graph.breaks[0])
    assert "departs from turn 1 at token 18" in str(graph.breaks[1])
    assert all("4 tokens of the answer left out" in found.reason for found in graph.breaks)


@pytest.mark.parametrize(
    ("second", "finish", "kind", "removed", "added"),
    [
        ([*PROMPT, 10, 11, 98, 99, 14, 15, 16, 2, *MORE], "stop", "retokenised", [12, 13], [98, 99]),
        ([*PROMPT, 10, 98, 12, 13, 14, 15, 16, 2, *MORE], "tool_calls", "tool_call", [11], [98]),
        ([*PROMPT, 13, 14, 15, 16, 2, *MORE], "stop", "template", [10, 11, 12], []),
        ([*PROMPT, *ANSWER[:-1], 99, *MORE], "stop", "template", [2], [99]),
        ([1, 2, 3, 4, 70, 71, 5, *ANSWER, *MORE], "stop", "template", [], [70, 71]),
        ([*PROMPT, 40, 41, 42, 43], "stop", "retokenised", ANSWER, [40, 41, 42, 43]),
    ],
)
def test_a_break_says_what_kind_it_is_and_holds_the_differing_tokens(
    second: list[int], finish: str, kind: str, removed: list[int], added: list[int]
) -> None:
    (found,) = TokenGraph([call(PROMPT, ANSWER, finish=finish), call(second, [50])]).breaks
    assert (found.kind, found.removed.tolist(), found.added.tolist()) == (kind, removed, added)
    assert (found.turn, found.earlier) == (1, 0)
    assert second[found.position : found.position + len(added)] == added


def test_thinking_that_becomes_an_empty_thought_is_the_templates_doing() -> None:
    think = list(range(100, 130))
    first = call(PROMPT, [*think, *ANSWER])
    (found,) = TokenGraph([first, call([*PROMPT, 90, 91, *ANSWER, *MORE], [50])]).breaks
    assert (found.kind, found.removed.tolist(), found.added.tolist()) == ("template", think, [90, 91])
    assert "30 tokens of the answer became 2: a template that drops thinking" in found.reason


def test_text_makes_the_cause_sure() -> None:
    """Ids of words: 1 and 2 make what 3 is."""
    words = {1: "un", 2: "do", 3: "undo", 4: "redo"}

    def decode(ids: Sequence[int]) -> str:
        return "".join(words.get(i, f"<{i}>") for i in ids)

    goes_on = [30, 31, 32, 33]
    earlier = call(PROMPT, [3, *goes_on])
    for wrote, kind in (([1, 2], "retokenised"), ([4], "edited")):
        (found,) = TokenGraph([earlier, call([*PROMPT, *wrote, *goes_on, 7], [8])]).breaks
        assert found.kind == "retokenised", "the tokens alone can't tell"
        assert compare_text(found, decode).kind == kind


def test_text_makes_the_cause_sure_where_the_rest_is_in_other_tokens_too() -> None:
    """A byte that is no character comes back as three: no token of the answer is there again, but its text is."""
    words = {1: "\ufffd", 2: "ab", 3: "a", 4: "b", 5: "\ufffd", 6: "<end>", 7: "c"}

    def decode(ids: Sequence[int]) -> str:
        return "".join(words.get(i, f"<{i}>") for i in ids)

    for wrote, kind in (([5, 3, 4, 6], "retokenised"), ([5, 7, 4, 6], "edited")):
        (found,) = TokenGraph([call([*PROMPT], [1, 2]), call([*PROMPT, *wrote, *MORE], [8])]).breaks
        assert not found.rejoins
        assert compare_text(found, decode).kind == kind


def test_agents_that_only_begin_alike_are_no_breaks() -> None:
    system = list(range(100, 140))
    graph = TokenGraph(
        [
            call([*system, 1, 2, 3, 9, 9, 9, 9], ANSWER),
            call([*system, 4, 5, 6, 9, 9, 9, 9], ANSWER),
            call([*system, 4, 5, 6, 9, 9, 9, 9, *ANSWER, 7], [8]),
        ]
    )
    assert graph.breaks == []


# -- invariants ----------------------------------------------------------------------------------------------------


@dataclass
class Agent:
    """A conversation under way: what its next prompt begins with."""

    context: list[int]
    model: str
    last_prompt: list[int] = field(default_factory=list)


@st.composite
def traces(draw: st.DrawFn) -> list[TokenCall]:
    """Calls of several interleaved agents that go on, sample again, compact, rewrite and branch."""
    token = st.integers(0, draw(st.sampled_from([1, 3, 500])))  # a tiny vocabulary makes prefixes agree by chance
    tokens = st.lists(token, max_size=5)
    models = st.sampled_from(["m", "m", "m", "another"])
    agents = [Agent(draw(tokens), draw(models)) for _ in range(draw(st.integers(1, 3)))]
    calls: list[TokenCall] = []
    version = 0
    for _ in range(draw(st.integers(0, 12))):
        agent = draw(st.sampled_from(agents))
        version += draw(st.integers(0, 1))
        lag = draw(st.integers(0, min(1, version)))  # a call that began before the last update and ended after it
        kind = draw(st.sampled_from(["go on", "go on", "go on", "again", "compact", "rewrite", "branch"]))
        if kind == "again":
            prompt = agent.last_prompt
        elif kind == "compact":
            prompt = agent.context[:2] + draw(tokens)
        elif kind == "rewrite":
            prompt = [draw(token) if draw(st.integers(0, 5)) == 0 else t for t in agent.context] + draw(tokens)
        elif kind == "branch" and calls:
            other = draw(st.sampled_from(calls))
            prompt = [*other.prompt_ids.tolist(), *other.response_ids.tolist(), *draw(tokens)]
        else:
            prompt = agent.context + draw(tokens)
        made = call(prompt, draw(tokens), version=version - lag, model=agent.model)
        agent.last_prompt, agent.context = prompt, prompt + made.response_ids.tolist()
        calls.append(made)
    return calls


@settings(max_examples=300, deadline=None)
@given(traces())
def test_a_path_is_exactly_what_the_engine_saw(calls: list[TokenCall]) -> None:
    graph = TokenGraph(calls)
    for turn, made in enumerate(calls):
        path = graph.path(turn)
        assert np.concatenate([n.token_ids for n in path]).tolist() == [
            *made.prompt_ids.tolist(),
            *made.response_ids.tolist(),
        ]
        assert path[-1].turn == turn
        assert path[-1].token_ids.tolist() == made.response_ids.tolist()


@settings(max_examples=300, deadline=None)
@given(traces())
def test_every_sampled_token_is_marked_exactly_once(calls: list[TokenCall]) -> None:
    trajectories, views = TokenGraph(calls).assemble()
    marked: dict[int, int] = {}
    for trajectory in trajectories:
        assert (trajectory.turns[~trajectory.sampled] == -1).all()
        assert (trajectory.versions[~trajectory.sampled] == -1).all()
        assert (trajectory.logprobs[~trajectory.sampled] == 0).all()
        for turn in set(trajectory.turns[trajectory.sampled].tolist()):
            assert turn not in marked
            at = np.flatnonzero(trajectory.turns == turn)
            made = calls[turn]
            marked[turn] = len(at)
            assert at.tolist() == list(range(len(made.prompt_ids), len(made.prompt_ids) + len(made.response_ids)))
            assert trajectory.token_ids[: at[-1] + 1].tolist() == [
                *made.prompt_ids.tolist(),
                *made.response_ids.tolist(),
            ]
            assert trajectory.logprobs[at].tolist() == made.logprobs.tolist()
            assert (trajectory.versions[at] == made.weights_version).all()
    assert marked == {turn: len(made.response_ids) for turn, made in enumerate(calls) if len(made.response_ids)}
    for view, made in zip(views, calls, strict=True):
        assert view.prompt_ids.tolist() == made.prompt_ids.tolist()
        assert view.response_ids.tolist() == made.response_ids.tolist()


@settings(max_examples=300, deadline=None)
@given(traces())
def test_versions_never_decrease_along_a_path(calls: list[TokenCall]) -> None:
    graph = TokenGraph(calls)
    for turn in range(len(calls)):
        versions = [calls[node.turn].weights_version for node in graph.path(turn) if node.turn is not None]
        assert versions == sorted(versions)
    for trajectory in graph.assemble()[0]:
        versions = trajectory.versions[trajectory.sampled]
        assert (np.diff(versions) >= 0).all()


@settings(max_examples=200, deadline=None)
@given(traces())
def test_a_row_holds_what_one_model_saw(calls: list[TokenCall]) -> None:
    for trajectory in TokenGraph(calls).assemble()[0]:
        assert len({made.model for made in trajectory.calls.values()}) <= 1


@settings(max_examples=200, deadline=None)
@given(traces())
def test_a_break_is_where_it_says(calls: list[TokenCall]) -> None:
    for found in TokenGraph(calls).breaks:
        earlier, prompt = calls[found.earlier], calls[found.turn].prompt_ids.tolist()
        old = [*earlier.prompt_ids.tolist(), *earlier.response_ids.tolist()]
        at = found.position
        assert old[:at] == prompt[:at]
        assert old[at] != prompt[at]
        assert found.in_answer == (at >= len(earlier.prompt_ids))
        removed, added = found.removed.tolist(), found.added.tolist()
        assert old[at : at + len(removed)] == removed
        assert prompt[at : at + len(added)] == added
        assert f"turn {found.turn}: " in str(found)


@settings(max_examples=200, deadline=None)
@given(traces())
def test_leaves_are_the_calls_that_nothing_continues(calls: list[TokenCall]) -> None:
    graph = TokenGraph(calls)
    inner = {id(node) for turn in range(len(calls)) for node in graph.path(turn)[:-1]}
    leaves = [node for node in graph.nodes if id(node) not in inner]
    trajectories, _ = graph.assemble()
    assert len(trajectories) == len(leaves)
    assert all(node.leaf and node.turn is not None for node in leaves)
