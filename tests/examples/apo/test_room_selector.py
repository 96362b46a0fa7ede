"""The room-booking example: its judge, and a run against an endpoint that plays all models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import agentlightning as agl
from examples.apo.room_selector import book, parse_args, tune, use_tool
from examples.apo.rooms import NONE, ROOMS, judge, objections, requests, right_room
from tests.endpoint import served

from .booker import reply


def test_requests_follow_from_the_seed_and_differ_by_split():
    assert requests("train", 5) == requests("train", 9)[:5]
    assert requests("train", 5) != requests("val", 5)
    assert requests("train", 5) != requests("train", 5, seed=1)


def test_the_judge_is_graded_and_says_why():
    task = {"request": "", "people": 6, "needs": ["screen"], "step_free": True, "day": "Monday", "hour": 9}
    seen: dict[float, str] = {}
    for room in ROOMS:
        reward, words = judge(task, f"Take {room.id}.")
        assert (reward == 1.0) == (room.id == right_room(task))
        assert (reward < 0.5) == bool(objections(room, task))
        seen[reward] = words
    assert judge(task, "A1 or A2")[0] == 0.0
    assert judge(task, "I don't know")[0] == 0.0
    assert judge(task, "C9") == (0.0, "there is no room C9")
    assert len(seen) >= 3


def test_every_kind_of_answer_is_right_somewhere():
    right = {right_room(task) for task in requests("train", 200)}
    assert NONE in right
    assert len(right) >= 6


def test_no_room_is_an_answer_too():
    task = next(task for task in requests("train", 200) if right_room(task) == NONE)
    assert judge(task, "NONE")[0] == 1.0
    other = next(task for task in requests("train", 200) if right_room(task) != NONE)
    assert judge(other, "NONE")[0] == 0.0


def test_a_tool_call_that_makes_no_sense_is_answered_in_words():
    assert "no tool book" in use_tool("book", "{}")
    assert "day and hour are needed" in use_tool("find_rooms", "{}")
    assert "day and hour are needed" in use_tool("find_rooms", "[1")
    assert len(json.loads(use_tool("find_rooms", '{"day": "Monday", "hour": 9}'))) == len(ROOMS)


def test_the_agent_uses_the_tool_and_keeps_to_its_prompt():
    prompt = "Take only rooms that are free.\nCheck that the room has all equipment that is asked for.\n" + (
        "Count one spare seat beside the people.\nFor a wheelchair take only step-free rooms.\n"
        "Of several rooms take the smallest.\nAnswer with the id of one room, or NONE where no room will do.\n{request}"
    )
    tasks = requests("test", 12)
    with served(reply) as endpoint:
        llm = agl.LLM(endpoint=endpoint.url, model="agent")
        rewards = [judge(task, book(prompt.format(request=task["request"]), llm))[0] for task in tasks]
    assert rewards == [1.0] * len(tasks)
    assert endpoint.calls["agent"] == 2 * len(tasks)


@pytest.mark.slow
def test_tuning_finds_the_rules_of_the_house(tmp_path: Path):
    with served(reply) as endpoint:
        words = ["--base-url", endpoint.url, "--model", "agent", "--critic-model", "critic", "--budget", "300"]
        words += ["--runs-dir", str(tmp_path), "--runners", "4"]
        apo = tune(parse_args(words))
        spent = endpoint.calls
        assert apo.held_out is not None
        assert apo.held_out.comparison is not None
        assert apo.held_out.best.mean > apo.held_out.start.mean + 0.3
        assert apo.held_out.comparison.p < 0.01
        assert apo.get_best_prompt().template == (tmp_path / "room-selector" / "apo" / "best_prompt.txt").read_text()
        assert "{request}" in apo.get_best_prompt().template

        again = tune(parse_args([*words, "--resume"]))
        assert endpoint.calls == spent  # nothing is paid twice
        assert again.get_best_prompt() == apo.get_best_prompt()
        assert again.held_out == apo.held_out
