"""What a critic is shown of a rollout."""

from __future__ import annotations

from typing import Any

from agentlightning.algorithm.apo.outcome import Outcome, Place
from agentlightning.algorithm.apo.transcript import cut, experiments, runs
from agentlightning.types import PromptTemplate

PROMPT = PromptTemplate(template="You are a planner.\nCase: {case}\nBe brief.")


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages), "tools": None}


def outcome(*calls: dict[str, Any], **fields: Any) -> Outcome:
    given: dict[str, Any] = {"status": "succeeded", "reward": 0.25, "rewarded": True, "input": {"q": "x"}, **fields}
    return Outcome(Place("train", 0), "r", conversations=list(calls), **given)


OURS = call(said("system", "You are a planner.\nCase: 7\nBe brief."), said("assistant", "ours"))
WRITER = PromptTemplate(template="You are a writer. Case: {case}")
OTHER = call(said("user", "You are a writer. Case: 7"), said("assistant", "other"))
JUDGE = call(said("user", "Grade the answer: ours"), said("assistant", "too long"))


def shown(*outcomes: Outcome, longest: int = 8000) -> str:
    return runs(experiments(outcomes, PROMPT, [WRITER], longest))


def test_calls_with_another_tuned_prompt_are_not_shown_but_the_judge_is() -> None:
    text = shown(outcome(OTHER, OURS, JUDGE))
    assert "[assistant] ours" in text
    assert "[assistant] too long" in text
    assert "[assistant] other" not in text


def test_a_call_with_both_prompts_is_shown() -> None:
    both = call(said("system", "You are a planner.\nCase: 7\nBe brief."), *OTHER["messages"])
    assert "[assistant] other" in shown(outcome(both))


def test_a_prompt_without_words_of_its_own_hides_nothing() -> None:
    bare = PromptTemplate(template="{case}")
    assert "[assistant] other" in runs(experiments([outcome(OTHER)], PROMPT, [bare]))


def test_a_call_that_another_goes_on_from_is_not_shown_twice() -> None:
    longer = call(*OURS["messages"], said("tool", "result"), said("assistant", "after the tool"))
    text = shown(outcome(OURS, longer))
    assert text.count("[assistant] ours") == 1
    assert "[tool] result\n[assistant] after the tool" in text


def test_tools_that_were_called_and_parts_of_messages_are_shown() -> None:
    used = [{"id": "1", "type": "function", "function": {"name": "book", "arguments": '{"room": 3}'}}]
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:..."}}]
    text = shown(outcome(call(said("user", parts), said("assistant", None, tool_calls=used))))
    assert '[calls tool] book({"room": 3})' in text
    assert "[user] see[image_url]" in text


def test_errors_feedback_and_a_missing_reward_are_said() -> None:
    text = shown(outcome(status="failed", reward=0.0, rewarded=False, error="KeyError: 'x'", feedback=("a", "b")))
    assert '<run number="1" status="failed" reward="none, which counts as 0">' in text
    assert "It ended with an error:\nKeyError: 'x'" in text
    assert "Feedback:\n- a\n- b" in text
    assert 'Task:\n{\n  "q": "x"\n}' in text


def test_what_is_long_is_cut_in_the_middle_and_says_so() -> None:
    long = call(said("user", "begin " + "x" * 50_000), said("assistant", "end"))
    text = shown(outcome(long, error="e" * 9000), longest=1000)
    assert len(text) < 6000
    assert "[user] begin" in text
    assert "[assistant] end" in text
    assert "characters left out ...]" in text


def test_a_text_that_fits_is_not_cut() -> None:
    assert cut("x" * 10, 10) == "x" * 10
    assert cut("a" * 6 + "b" * 5, 9) == "aaaaaa\n[... 2 characters left out ...]\nbbb"


def test_many_calls_share_the_room() -> None:
    calls = [call(said("user", f"{n} " + "x" * 3000), said("assistant", f"end {n}")) for n in range(50)]
    assert len(shown(outcome(*calls), longest=4000)) < 9000
