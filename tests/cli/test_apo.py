"""`agl apo`: a run from the command line, refused, resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.endpoint import served
from tests.examples.apo.booker import reply

ROOT = Path(__file__).parents[2]


@pytest.fixture
def booking(agl: Any) -> Path:
    """The room-booking example as a user's project."""
    from examples.apo.rooms import requests

    (agl.directory / "examples").symlink_to(ROOT / "examples")
    (agl.directory / "prompt.txt").write_text("You book meeting rooms. Choose a room for this request.\n\n{request}\n")
    for split in ("train", "val", "test"):
        lines = [json.dumps(row) + "\n" for row in requests(split, 12)]
        (agl.directory / f"{split}.jsonl").write_text("".join(lines))
    return agl.directory


@pytest.mark.slow
def test_a_run_is_kept_refused_and_resumed(agl: Any, booking: Path) -> None:
    words = ("apo", "examples.apo.room_selector:room_selector", "--prompt", "prompt.txt", "--run", "first")
    words += ("--train", "train.jsonl", "--val", "val.jsonl", "--test", "test.jsonl", "--budget-rollouts", "90")
    with served(reply) as endpoint:
        words += ("--llm-endpoint", endpoint.url, "--model", "agent", "--critic-model", "critic")
        words += ("--price", "critic=1,2")
        done = agl(*words)
        assert done.returncode == 0, done.stderr
        assert "held-out reward: " in done.stdout
        assert "of 90 rollouts" in done.stdout
        assert f"report: {Path('runs/first/apo/report.html')}" in done.stdout
        best = json.loads((booking / "runs/first/apo/best_prompt.json").read_text())
        assert best["held_out"]["best"]["mean"] > best["held_out"]["start"]["mean"]
        assert 24 < best["spent"]["rollouts"] <= 90
        assert best["spent"]["cost"] > 0
        assert (booking / "runs/first/apo/best_prompt.txt").read_text() == best["prompts"]["prompt"]
        paid = endpoint.calls
        assert endpoint.calls["critic"] > 0

        again = agl(*words)
        assert again.returncode == 2
        assert "run `runs/first` exists" in again.stderr

        resumed = agl(*words, "--resume")
        assert resumed.returncode == 0, resumed.stderr
        assert endpoint.calls == paid
        assert json.loads((booking / "runs/first/apo/best_prompt.json").read_text()) == best


@pytest.mark.slow
@pytest.mark.parametrize("own", ["sk-critic", ""], ids=["own key", "one key"])
def test_a_critic_elsewhere_is_given_its_own_key(agl: Any, booking: Path, own: str) -> None:
    words = ("apo", "examples.apo.room_selector:room_selector", "--prompt", "prompt.txt", "--run", "two")
    words += ("--train", "train.jsonl", "--val", "val.jsonl", "--budget-rollouts", "40")
    with served(reply) as agents, served(reply) as critics:
        words += ("--llm-endpoint", agents.url, "--model", "agent")
        words += ("--critic-endpoint", critics.url, "--critic-model", "critic")
        done = agl(*words, OPENAI_API_KEY="sk-agent", CRITIC_API_KEY=own)
        assert done.returncode == 0, done.stderr
        assert agents.keys == {"sk-agent"}
        assert critics.keys == {own or "sk-agent"}
        assert set(critics.calls) == {"critic"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give the prompt with `--prompt FILE`"),
        (("--prompt", "prompt.txt", "--resource", "a=prompt.txt"), "give the prompt with `--prompt FILE`"),
        (("--prompt", "none.txt"), "`--prompt`: none.txt can't be read"),
        (("--resource", "prompt.txt"), "`--resource` is NAME=FILE"),
        (("--resource", "a=prompt.txt", "--resource", "a=prompt.txt"), "names `a` twice"),
        (("--prompt", "prompt.txt", "--preset", "best"), "`preset` 'best' is unknown"),
        (("--prompt", "prompt.txt", "--llm-endpoint", "http://127.0.0.1:1/v1"), "`--model NAME` go together"),
        (("--prompt", "prompt.txt", "--price", "gpt=3"), "`--price` is MODEL=IN,OUT"),
        (("--prompt", "prompt.txt", "--budget-cost", "3"), "`prices` is empty"),
        (("--prompt", "prompt.txt", "--resume"), "no run `runs/bad` to resume"),
    ],
)
def test_what_can_not_work_is_said_before_anything_is_made(
    agl: Any, booking: Path, arguments: tuple[str, ...], expected: str
) -> None:
    done = agl("apo", "examples.apo.room_selector:room_selector", "--run", "bad", "--train", "train.jsonl", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert not (booking / "runs" / "bad").exists()
