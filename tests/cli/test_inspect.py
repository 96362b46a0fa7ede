"""`agl inspect`: what a rollout looks like to training, from a file, a run directory and a running store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from agentlightning.emitter import reward_attributes
from agentlightning.semconv import AGL_REWARD, LLM_CALL_NUMBER, LLM_CALL_SPAN, TOKEN_IDS
from agentlightning.store import SqlLightningStore
from agentlightning.types import Span, TokenCall, TraceStatus

from .test_store import serving


def recorded(prompt: list[int], response: list[int], version: int = 0) -> TokenCall:
    ids = np.array(prompt, np.int32), np.array(response, np.int32)
    return TokenCall("models/tiny", *ids, np.full(len(response), -0.5, np.float32), "stop", weights_version=version)


async def fill(path: Path, tokenizer: Any) -> str:
    """A store with one rollout: two turns in one row, and a third whose prompt has the second's answer otherwise."""

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    first, answer, tool, second, other = map(ids, ("0 + 1 + 1", "1 0 0 1", " + 0", "11001100", "00110011"))
    goes_on = [*first, *answer, *tool]
    # the last prompt has the second answer otherwise at its beginning
    rewritten = [*goes_on, *other[:2], *second[2:], *tool]
    calls = [(first, answer), (goes_on, second), (rewritten, answer)]
    store = SqlLightningStore(path)
    rollout = await store.start_rollout({"question": "0 + 1"}, mode="train")
    about = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    spans: list[Span] = []
    for number, (prompt, response) in enumerate(calls):
        span = Span.create(LLM_CALL_SPAN, attributes={TOKEN_IDS: "recorded", LLM_CALL_NUMBER: number + 1}, **about)
        span.token_call = recorded(prompt, response, version=3)
        spans.append(span)
    spans.insert(1, Span.create(AGL_REWARD, attributes=reward_attributes(0.25), **about))
    dimensions = reward_attributes({"solver": 1.0, "style": 0.5}, "solver")
    spans.append(Span.create(AGL_REWARD, attributes=dimensions, **about))
    failed = TraceStatus(status_code="ERROR", description="the backend [said] no")
    spans.append(Span.create(LLM_CALL_SPAN, attributes={LLM_CALL_NUMBER: 4}, status=failed, **about))
    await store.add_many_spans(spans)
    await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
    await store.start_rollout({"question": "nothing"})
    await store.close()
    return rollout.rollout_id


@pytest.fixture
def filled(tmp_path: Path, model: Path) -> tuple[Path, str]:
    """A run directory whose model is there, and the rollout in its store."""
    run = tmp_path / "run"
    run.mkdir()
    config = {"actor_rollout_ref": {"model": {"path": str(model)}}}
    (run / "config.json").write_text(json.dumps({"config": config}))
    return run, asyncio.run(fill(run / "store.sqlite", AutoTokenizer.from_pretrained(model)))


def test_a_rollout_of_a_run(agl: Any, filled: tuple[Path, str]) -> None:
    run, rollout_id = filled
    done = agl("inspect", rollout_id, "--store", str(run))
    assert done.returncode == 0, done.stderr
    assert f"{rollout_id} attempt " in done.stdout
    assert "succeeded; reward 1, solver 1, style 0.5" in done.stdout
    turns = [line for line in done.stdout.splitlines() if line.startswith("│ ")][:3]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in turns]
    assert [row[0] for row in cells] == ["0", "1", "2"]
    assert [row[1:3] for row in cells] == [["tiny", "3"]] * 3
    assert [row[5] for row in cells] == ["-0.500"] * 3
    assert [row[7] for row in cells] == ["0.25", "", "1"]
    assert [row[8] for row in cells] == ["0", "0", "1"]
    assert cells[0][9] == "1 0 0 1"
    assert "of turn 0" in done.stdout
    assert "turn 2 does not continue turn 1 from token" in done.stdout
    assert "a call failed: the backend [said] no" in done.stdout


def test_as_json_it_is_the_same_for_programs(agl: Any, filled: tuple[Path, str]) -> None:
    run, rollout_id = filled
    done = agl("inspect", rollout_id, "--store", str(run / "store.sqlite"), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["status"], facts["reward"], facts["input"]) == ("succeeded", 1.0, {"question": "0 + 1"})
    assert [turn["reward"] for turn in facts["turns"]] == [0.25, None, 1.0]
    assert "response" not in facts["turns"][0], "without a tokenizer there is no text"
    first, second = facts["rows"]
    assert [run["turn"] for run in first["runs"]] == [None, 0, None, 1]
    assert [run["turn"] for run in second["runs"]] == [None, 2]
    assert first["tokens"] == first["runs"][-1]["end"]
    assert first["trained"] == facts["turns"][0]["response_tokens"] + facts["turns"][1]["response_tokens"]
    (found,) = facts["breaks"]
    assert (found["turn"], found["earlier"], found["in"], found["kind"]) == (2, 1, "answer", "retokenised")
    assert found["position"] == facts["turns"][1]["prompt_tokens"]


def test_a_tokenizer_gives_text_and_makes_the_cause_sure(agl: Any, filled: tuple[Path, str], model: Path) -> None:
    run, rollout_id = filled
    where = ("--store", str(run / "store.sqlite"), "--tokenizer", str(model))
    facts = json.loads(agl("inspect", rollout_id, *where, "--json", "--text").stdout)
    (found,) = facts["breaks"]
    assert (found["removed_text"], found["added_text"], found["kind"]) == ("11", "00", "edited")
    assert "".join(run["text"] for run in facts["rows"][0]["runs"]) == "0 + 1 + 11 0 0 1 + 011001100"
    shown = agl("inspect", rollout_id, *where, "--text")
    assert shown.returncode == 0, shown.stderr
    assert "⟦1 0 0 1⟧ + 0⟦11001100⟧" in shown.stdout
    assert "- '11'" in shown.stdout
    assert "+ '00'" in shown.stdout


def test_a_running_store_is_asked_and_a_part_of_an_id_is_enough(agl: Any, filled: tuple[Path, str]) -> None:
    run, rollout_id = filled
    with serving(agl, str(run / "store.sqlite")) as (_, url):
        done = agl("inspect", rollout_id[3:], "--store", url, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["rollout_id"], len(facts["turns"])) == (rollout_id, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ro-nobody",), "has no rollout `ro-nobody`; `agl query rollouts` shows"),
        (("ro-",), "several fit: ro-"),
        (("ROLLOUT", "--attempt", "at-7"), "`--attempt at-7`: rollout `ro-"),
        (("ROLLOUT", "--text"), "`--text` needs the model's tokenizer"),
        (("ROLLOUT", "--tokenizer", "nowhere"), "no model folder at `nowhere`"),
    ],
)
def test_wrong_requests_say_the_mend(
    agl: Any, filled: tuple[Path, str], arguments: tuple[str, ...], message: str
) -> None:
    run, rollout_id = filled
    given = [rollout_id if word == "ROLLOUT" else word for word in arguments]
    done = agl("inspect", *given, "--store", str(run / "store.sqlite"))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
