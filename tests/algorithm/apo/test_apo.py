"""Whole runs of `APO` through `Trainer.fit`: a real store, real runners, a real endpoint for critic and editor."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import agentlightning as agl
from agentlightning.algorithm.apo.state import State
from agentlightning.types import ConfigError, DatasetError
from tests.endpoint import Endpoint, asked, served

from .words import BUDGET, START, TEST, TRAIN, VAL, agent, critic_and_editor, grade, make, tune


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with served(critic_and_editor) as made:
        yield made


def state_of(apo: agl.APO) -> State:
    assert apo.state is not None
    return apo.state


def lineage(apo: agl.APO) -> list[Any]:
    state = state_of(apo)
    return [(c.id, c.texts, c.parents, c.round, state.scores(c)) for c in state.candidates]


def test_the_documented_loop_makes_the_prompt_better(endpoint: Endpoint, tmp_path: Path) -> None:
    apo = tune(tmp_path / "run", endpoint.url)
    state, best = state_of(apo), apo.get_best_prompt()
    assert apo.get_resource("prompt") == best
    assert "{name}" in best.template
    held = apo.held_out
    assert held is not None
    expected = [sum(grade(text, t["needs"]) for t in TEST) / len(TEST) for text in (START, best.template)]
    assert [held.start.mean, held.best.mean] == pytest.approx(expected)
    assert held.best.mean > held.start.mean + 0.3
    assert state.ledger.spent.rollouts <= BUDGET
    texts = [tuple(candidate.texts.items()) for candidate in state.candidates]
    assert len(set(texts)) == len(texts)
    assert all("{name}" in candidate.texts["prompt"] for candidate in state.candidates)
    assert sum(now.rejected.get("lost placeholder {name}", 0) for now in state.rounds) > 0
    written = {file.name for file in (tmp_path / "run" / "apo").iterdir()}
    assert {"best_prompt.txt", "best_prompt.json", "report.html", "candidates.jsonl"} <= written
    assert (tmp_path / "run" / "apo" / "best_prompt.txt").read_text() == best.template


def test_no_pair_of_prompt_and_task_is_run_twice(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAID", str(tmp_path / "paid"))
    apo = tune(tmp_path / "run", endpoint.url)
    paid = Counter((tmp_path / "paid").read_text().splitlines())
    assert sum(paid.values()) == state_of(apo).ledger.spent.rollouts
    assert set(paid.values()) == {1}


def test_the_lineage_does_not_depend_on_the_number_of_runners(endpoint: Endpoint, tmp_path: Path) -> None:
    one, many = (tune(tmp_path / str(n), endpoint.url, runners=n, budget=80) for n in (1, 16))
    assert lineage(one) == lineage(many)
    other = tune(tmp_path / "other", endpoint.url, seed=4, budget=80)
    assert lineage(other) != lineage(one)


@pytest.mark.parametrize("preset", ["protegi", "gepa", "auto"])
def test_every_preset_makes_the_prompt_better(endpoint: Endpoint, tmp_path: Path, preset: str) -> None:
    reflecting = preset == "gepa"

    def answer(body: dict[str, Any]) -> str:
        """A model that reflects is critic and editor at once."""
        if not reflecting or body["model"] == "editor":
            return critic_and_editor(body)
        critique = critic_and_editor(body)
        again = {**body, "model": "editor", "messages": [{"role": "user", "content": asked(body) + critique}]}
        return critic_and_editor(again)

    endpoint.answer = answer
    apo = tune(
        tmp_path / "run",
        endpoint.url,
        preset=preset,
        budget=240,
        beam_width=None,
        branch_factor=None,
        beam_rounds=None,
        val_batch_size=None,
    )
    assert apo.held_out is not None
    assert apo.held_out.best.mean > apo.held_out.start.mean + 0.2
    assert state_of(apo).ledger.spent.rollouts <= 240


def test_a_killed_run_goes_on_to_the_same_end_and_pays_nothing_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    whole = tune(tmp_path / "whole" / "run", endpoint.url)
    calls = Counter(json.dumps(body, sort_keys=True) for body in endpoint.bodies)
    endpoint.bodies.clear()
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-m", "tests.algorithm.apo.words", str(tmp_path / "killed" / "run"), endpoint.url]
    env = {**os.environ, "PAID": str(tmp_path / "paid"), "OMP_NUM_THREADS": "1"}
    for crash in (15, 20, 25):
        resume = ["--resume"] if crash > 15 else []
        ended = subprocess.run([*command, "--crash-after", str(crash), *resume], env=env, check=False)
        assert ended.returncode == -signal.SIGKILL
    resumed = tune(tmp_path / "killed" / "run", endpoint.url, resume=True)
    assert lineage(resumed) == lineage(whole)
    assert resumed.get_best_prompt() == whole.get_best_prompt()
    assert resumed.held_out == whole.held_out
    spent, before = state_of(resumed).ledger.spent, state_of(whole).ledger.spent
    assert (spent.rollouts, spent.llm_calls, spent.tokens) == (before.rollouts, before.llm_calls, before.tokens)
    again = Counter(json.dumps(body, sort_keys=True) for body in endpoint.bodies)
    lost = sum((again - calls).values())
    assert not calls - again
    assert lost <= 3 * 16, "only what was under way at a kill is asked again"
    paid = Counter((tmp_path / "paid").read_text().splitlines())
    assert sum(n - 1 for n in paid.values()) <= 3 * 4, "only what the four runners had under way at a kill runs again"


def test_a_run_that_is_killed_while_critic_or_editor_write_goes_on_to_the_same_end(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    whole = tune(tmp_path / "whole" / "run", endpoint.url)
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-m", "tests.algorithm.apo.words", str(tmp_path / "killed" / "run"), endpoint.url]
    for at in (2, 9):  # a critic's request of the first round, an editor's of a later one
        left = [at]
        running: list[subprocess.Popen[bytes]] = []

        def answer(body: dict[str, Any], left: list[int] = left, running: Any = running) -> str:
            left[0] -= 1
            if left[0] == 0:
                running[0].kill()
            return critic_and_editor(body)

        endpoint.answer = answer
        running.append(subprocess.Popen([*command, *(["--resume"] if at != 2 else [])]))
        assert running[0].wait() == -signal.SIGKILL
    endpoint.answer = critic_and_editor
    resumed = tune(tmp_path / "killed" / "run", endpoint.url, resume=True)
    assert lineage(resumed) == lineage(whole)
    assert resumed.held_out == whole.held_out
    assert state_of(resumed).ledger.spent.writer_calls > state_of(whole).ledger.spent.writer_calls, "lost ones count"


def test_a_run_is_not_resumed_with_other_settings(endpoint: Endpoint, tmp_path: Path) -> None:
    tune(tmp_path / "run", endpoint.url, budget=60)
    with pytest.raises(ConfigError, match="`seed` 3, and now it is 4"):
        tune(tmp_path / "run", endpoint.url, resume=True, seed=4, budget=60)
    more = tune(tmp_path / "run", endpoint.url, resume=True, budget=90)
    assert state_of(more).ledger.spent.rollouts > 60


@agl.rollout
def two_prompts(task: Any, resources: agl.NamedResources) -> float:
    texts = {name: each.template for name, each in resources.items() if isinstance(each, agl.PromptTemplate)}
    assert texts["fixed"] == "as it is"
    assert isinstance(resources["llm"], agl.LLM)
    halves = [texts[name] for name in ("first", "second")]
    found = [float(task["needs"][n] in halves[n]) for n in (0, 1)]
    for n in (0, 1):
        if not found[n]:
            agl.emit_message(f"lacks: {task['needs'][n]}")
    return sum(found) / 2


def test_several_prompts_are_tuned_and_other_resources_stay(endpoint: Endpoint, tmp_path: Path) -> None:
    apo = make(endpoint.url, prompts=["first", "second"], budget=200, beam_rounds=5)
    given: agl.NamedResources = {
        "llm": agl.LLM(endpoint="http://127.0.0.1:1/v1", model="m"),
        "first": agl.PromptTemplate(template="One."),
        "fixed": agl.PromptTemplate(template="as it is"),
        "second": agl.PromptTemplate(template="Two."),
    }
    trainer = agl.Trainer(algorithm=apo, n_runners=4, run_dir=tmp_path / "run", initial_resources=given)
    trainer.fit(two_prompts, TRAIN, val_dataset=VAL)
    assert {c.component for c in state_of(apo).candidates} == {"", "first", "second"}
    assert apo.get_resource("fixed").template == "as it is"
    assert apo.held_out is not None
    assert apo.held_out.best.mean > apo.held_out.start.mean
    with pytest.raises(KeyError, match="no resource `third`"):
        apo.get_resource("third")
    files = {file.name for file in (tmp_path / "run" / "apo").iterdir()}
    assert {"best_first.txt", "best_second.txt"} <= files


@agl.rollout
def breaks(task: Any, prompt_template: agl.PromptTemplate) -> float:
    if "amber" not in prompt_template.template:
        raise LookupError("lacks: amber")
    return 1.0


def test_the_critic_reads_the_exception_of_an_agent_that_failed(endpoint: Endpoint, tmp_path: Path) -> None:
    apo = make(endpoint.url, budget=80)
    agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "run").fit(breaks, TRAIN, val_dataset=VAL)
    critics = [asked(body) for body in endpoint.bodies if body["model"] == "critic"]
    assert "LookupError: lacks: amber" in critics[0]
    assert "amber" in apo.get_best_prompt().template
    assert state_of(apo).scores(state_of(apo).candidates[0]) == dict.fromkeys(range(len(VAL)), 0.0)


@agl.rollout
async def hangs(task: Any, prompt_template: agl.PromptTemplate) -> float:
    if task["number"] == VAL[0]["number"]:
        await asyncio.sleep(3600)
    return grade(prompt_template.template, task["needs"])


def test_rollouts_over_the_time_of_a_batch_are_cancelled_and_count_as_failed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    apo = make(endpoint.url, budget=40, rollout_batch_timeout=2.0, beam_rounds=1, test_dataset=None)
    agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "run").fit(hangs, TRAIN, val_dataset=VAL)
    state = state_of(apo)
    first = state.trials.outcomes(state.candidates[0], "val")[0]
    assert (first.status, first.reward) == ("cancelled", 0.0)
    assert "cancelled" in first.error


def test_the_longest_answer_of_critic_and_editor_can_be_set(endpoint: Endpoint, tmp_path: Path) -> None:
    tune(tmp_path / "run", endpoint.url, budget=40, max_answer_tokens=300)
    assert {body["max_tokens"] for body in endpoint.bodies} == {300}


def test_a_sync_client_does_as_well(endpoint: Endpoint, tmp_path: Path) -> None:
    apo = agl.APO(
        client=openai.OpenAI(base_url=endpoint.url, api_key="sk-secret"),
        gradient_model="critic",
        apply_edit_model="editor",
        beam_width=5,
        budget=60,
    )
    apo.set_initial_resources({"prompt": agl.PromptTemplate(template=START, input_keys=["name"])})
    trainer = agl.Trainer(agent=agent, algorithm=apo, n_runners=2, max_iterations=1, run_dir=tmp_path / "run")
    trainer.fit(apo, TRAIN, val_dataset=VAL)
    assert state_of(apo).round == 1


def test_the_users_client_is_of_use_before_and_after_a_run(endpoint: Endpoint, tmp_path: Path) -> None:
    client = openai.AsyncOpenAI(base_url=endpoint.url, api_key="sk-secret")
    messages: Any = [{"role": "user", "content": "<prompt>a</prompt>"}]

    async def ask() -> None:
        await client.chat.completions.create(model="editor", messages=messages, seed=1)

    apo = make(endpoint.url, budget=40, beam_rounds=1, test_dataset=None)
    apo.client = client
    agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "run").fit(agent, TRAIN, val_dataset=VAL)
    asyncio.run(ask())
    apo = make(endpoint.url, budget=40, beam_rounds=1, test_dataset=None)
    apo.client = client  # with a connection of a loop that has ended
    agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "again").fit(agent, TRAIN, val_dataset=VAL)
    assert state_of(apo).ledger.spent.errors == {}


def test_no_thread_is_left_behind(endpoint: Endpoint, tmp_path: Path) -> None:
    apo = make(endpoint.url, budget=40, beam_rounds=1, test_dataset=None)
    apo.client = openai.OpenAI(base_url=endpoint.url, api_key="sk-secret")
    agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "run").fit(agent, TRAIN, val_dataset=VAL)
    for thread in threading.enumerate():
        if thread.name.startswith("apo-writer"):
            thread.join(10)
            assert not thread.is_alive()


@agl.rollout
def mistaken(task: Any, prompt_template: agl.PromptTemplate) -> float:
    raise KeyError("questoin")


@agl.rollout
def silent(task: Any, prompt_template: agl.PromptTemplate) -> None:
    prompt_template.format(name="Ann")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (mistaken, "all 8 rollouts so far failed; the first: KeyError: 'questoin'"),
        (silent, "none of the 8 rollouts so far has a reward"),
    ],
)
def test_an_agent_that_can_not_work_is_said_once(
    endpoint: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: Any, said: str
) -> None:
    apo = make(endpoint.url, budget=40, beam_rounds=1, test_dataset=None)
    agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "run").fit(wrong, TRAIN, val_dataset=VAL)
    assert [record.getMessage() for record in caplog.records if "rollouts so far" in record.getMessage()] == [
        next(each for each in caplog.messages if each.startswith(said))
    ]


def test_without_validation_tasks_half_of_the_train_tasks_are_taken(endpoint: Endpoint, tmp_path: Path) -> None:
    apo = make(endpoint.url, budget=40, test_dataset=None)
    agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "run").fit(agent, TRAIN)
    trials = state_of(apo).trials
    assert (trials.size("train"), trials.size("val")) == (6, 6)
    with pytest.raises(DatasetError, match="no `train_dataset`"):
        agl.Trainer(algorithm=apo, run_dir=tmp_path / "again").fit(agent, None, val_dataset=VAL)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"beam_width": 0}, "`beam_width` must be a whole number from 1, not 0"),
        ({"preset": "best"}, "`preset` 'best' is unknown; there are 'documented', 'protegi', 'gepa', 'auto'"),
        ({"budget": 0}, "`rollouts` must be a whole number above 0"),
        ({"budget": {"cost": 1, "prices": {"critic": (1, 2)}}}, "`prices` has none for model 'editor'; add one"),
        ({"budget": {"dollars": 1}}, "`budget` has no `dollars`; it has `rollouts`"),
        ({"prompts": ["other"]}, "`prompts` names `other`, and the prompts are prompt"),
        ({"rollout_batch_timeout": 0.0}, "`rollout_batch_timeout` must be more than 0"),
        ({"budget": 20}, "`budget` has 20 rollouts and the report on `test_dataset` takes 20"),
    ],
)
def test_what_can_not_work_is_said_before_anything_is_paid(
    endpoint: Endpoint, tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        tune(tmp_path / "run", endpoint.url, **settings)
    assert not endpoint.bodies
    assert not (tmp_path / "run").exists()


def test_a_limit_on_tokens_needs_agents_whose_calls_are_on_record(endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of the agents' LLM calls are on record"):
        tune(tmp_path / "run", endpoint.url, budget={"tokens": 10_000})
    apo = tune(tmp_path / "declared", endpoint.url, budget={"llm_calls": 30, "rollout_calls": 1}, test_dataset=None)
    assert 0 < len(endpoint.bodies) == state_of(apo).ledger.spent.llm_calls <= 30


def test_a_run_does_not_go_on_from_another_prompt(endpoint: Endpoint, tmp_path: Path) -> None:
    apo = make(endpoint.url, budget=40, beam_rounds=1, test_dataset=None)
    agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "run").fit(agent, TRAIN, val_dataset=VAL)
    asked_before = len(endpoint.bodies)
    apo.set_initial_resources({"prompt": agl.PromptTemplate(template="Be rude. {name}")})
    trainer = agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match="begun with other prompts"):
        trainer.fit(agent, TRAIN, val_dataset=VAL, resume=True)
    assert len(endpoint.bodies) == asked_before


@pytest.mark.skipif(importlib.util.find_spec("poml") is not None, reason="POML is installed")
def test_a_poml_prompt_that_can_not_be_rendered_is_refused_before_anything_is_paid(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    apo = make(endpoint.url)
    apo.set_initial_resources({"prompt": agl.PromptTemplate(template="<p>{{ name }}</p>", engine="poml")})
    with pytest.raises(ConfigError, match="`engine` of prompt `prompt` is 'poml': pip install"):
        agl.Trainer(algorithm=apo, n_runners=2, run_dir=tmp_path / "run").fit(agent, TRAIN, val_dataset=VAL)
    assert not endpoint.bodies


def test_without_a_prompt_there_is_nothing_to_tune(tmp_path: Path) -> None:
    apo = agl.APO(client=openai.AsyncOpenAI(api_key="none"))
    with pytest.raises(ValueError, match="no best prompt yet"):
        apo.get_best_prompt()
    with pytest.raises(ConfigError, match="no prompt to tune"):
        agl.Trainer(algorithm=apo, run_dir=tmp_path / "run").fit(agent, TRAIN, val_dataset=VAL)
