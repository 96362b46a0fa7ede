"""The test bed of the prompt optimisers: what its scores are worth, and that its models know only what they're told."""

from __future__ import annotations

import http.client
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentlightning.algorithm.apo import transcript
from agentlightning.algorithm.apo.meta_prompts import CRITICS, EDITORS, REFLECTION
from agentlightning.algorithm.apo.outcome import Outcome, Place
from agentlightning.types import PromptTemplate
from benchmarks.apo.bed import catalog, models, reading
from benchmarks.apo.bed.answers import answer, verdict
from benchmarks.apo.bed.families import SHARED, TEST, TRAIN, VAL, World
from benchmarks.apo.bed.words import BRACES, FILLERS, plain

ASKS = {"prompt": "Answer the case.", "planner": "Make the plan.", "writer": "Write the answer."}
BED = Path(__file__).parents[2] / "benchmarks" / "apo"


class Client:
    """Calls the endpoint."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(address).netloc)

    def ask(self, path: str, model: str, *texts: str, **more: Any) -> str:
        messages = [{"role": "user", "content": text} for text in texts]
        body = json.dumps({"model": model, "messages": messages, **more}).encode()
        self.connection.request("POST", f"/{path}/v1/chat/completions", body, {"content-type": "application/json"})
        reply = json.loads(self.connection.getresponse().read())
        return reply["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with subprocess.Popen([sys.executable, str(BED / "serve.py")], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield Client(server.stdout.readline().strip())
        finally:
            server.terminate()


def prompts_of(world: World) -> list[dict[str, str]]:
    """Start, oracle, and one with half of the rules, weak wordings, a harmful line and much filler."""
    mixed: dict[str, str] = {}
    for name in world.family.components:
        lines = [world.rules[rule].lines[rule % 4] for rule in world.of(name, useful=True)[::2]]
        mixed[name] = world.compose(name, [*lines, world.harmful[0], *FILLERS, *FILLERS])
    return [dict(world.start), dict(world.oracle), mixed]


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["claims", "freight", "treaty", "plant"])
def test_rewards_over_http_agree_with_the_exact_expectation(client: Client, name: str) -> None:
    world = catalog.world(name)
    temperature = 1.0 if world.family.sampled else 0.0
    for number, texts in enumerate(prompts_of(world)):
        rewards: list[float] = []
        exact: list[float] = []
        for seed in (0, 1):
            for task in world.tasks(seed, TEST[:30]):
                said = ""
                for role in world.family.components:
                    prompt = texts[role].format(case=task.text, plan=said)
                    said = client.ask(
                        f"{name}/{seed}/{number}", "sim-task", prompt, ASKS[role], temperature=temperature
                    )
                rewards.append(verdict(world, task, said).reward)
                exact.append(world.expected(texts, [task]))
        spread = math.sqrt(sum(p * (1 - p) for p in exact)) + 1e-9  # of 0 and 1; a graded reward has less
        assert abs(sum(rewards) - sum(exact)) < 4 * spread


@pytest.mark.parametrize("name", catalog.FAMILIES)
def test_the_expectation_is_that_of_the_models_answers(name: str) -> None:
    world = catalog.world(name)
    for texts in (*prompts_of(world), {SHARED: world.shared_start} if len(world.family.components) > 1 else {}):
        difference, variance = 0.0, 1e-9
        for seed in range(15):
            for task in world.tasks(seed, TEST[:10]):
                said = ""
                for role in world.family.components:
                    whose = SHARED if SHARED in texts else role
                    prompt = texts.get(whose, world.start[role]).format(case=task.text, plan=said)
                    said = answer(world, task, prompt, role, whose, seed, 1)
                exact = world.expected(texts, [task])
                difference += verdict(world, task, said).reward - exact
                variance += exact * (1 - exact)
        assert abs(difference) < 4 * math.sqrt(variance)


@pytest.mark.parametrize("name", catalog.FAMILIES)
def test_no_single_change_of_the_oracle_makes_it_better(name: str) -> None:
    world = catalog.world(name)
    tasks = world.tasks(0, TEST[:50])
    best = world.expected(world.oracle, tasks)
    assert 0.8 < best < 1.0
    assert world.gain(world.start, tasks) == 0.0
    assert world.expected(world.start, tasks) < 0.5
    for role in world.family.components:
        held = [world.rules[rule].best for rule in world.of(role, useful=True)]
        changes = [held[:i] + held[i + 1 :] for i in range(len(held))]
        changes += [
            [*held[:i], line, *held[i + 1 :]]
            for i, r in enumerate(world.of(role, useful=True))
            for line in world.rules[r].lines
        ]
        changes += [[*held, line] for line in (*world.harmful, *FILLERS)]
        for lines in changes:
            assert world.expected({**world.oracle, role: world.compose(role, lines)}, tasks) <= best + 1e-12


def test_a_prompt_that_lost_its_case_or_cannot_be_filled_in_is_worth_nothing() -> None:
    world = catalog.world("claims")
    tasks = world.tasks(0, TEST[:20])
    whole = world.oracle["prompt"]
    assert world.expected({"prompt": whole.replace("{case}", "")}, tasks) == 0
    assert world.expected({"prompt": f"{BRACES}\n{whole}"}, tasks) == 0
    pair = catalog.world("treaty")
    without_plan = pair.oracle["writer"].replace("{plan}", "")
    lost = pair.expected({**pair.oracle, "writer": without_plan}, pair.tasks(0, TEST[:20]))
    assert 0 < lost < pair.expected(pair.oracle, pair.tasks(0, TEST[:20])) - 0.3


def test_families_for_tuning_and_for_figures_are_apart() -> None:
    names = [family.name for family in (*catalog.REPORT, *catalog.TUNING)]
    assert len(names) == len(set(names))
    assert len(catalog.REPORT) >= 8
    assert len(names) >= 12
    assert not set(catalog.REPORT_SEEDS) & set(catalog.TUNING_SEEDS)
    assert len(catalog.REPORT_SEEDS) >= 10
    assert not (set(TRAIN) & set(VAL))
    assert not (set(TEST) & {*TRAIN, *VAL})


# -- the endpoint -----------------------------------------------------------------------------------------------------


def test_the_same_call_has_the_same_answer_and_samples_are_drawn_at_a_temperature(client: Client) -> None:
    world = catalog.world("clinic")
    prompts = [world.start["prompt"].format(case=task.text) for task in world.tasks(3, TEST[:20])]

    def answers(run: str, **more: Any) -> list[str]:
        return [client.ask(f"clinic/3/{run}", "sim-task", prompt, ASKS["prompt"], **more) for prompt in prompts]

    assert answers("a", temperature=0) == answers("b", temperature=0) == answers("a", temperature=0)
    first, second = answers("a"), answers("a")
    assert first != second
    assert (answers("c"), answers("c")) == (first, second)
    assert answers("d", seed=5) == answers("d", seed=5) != answers("d", seed=6)


def test_what_the_optimisers_models_say_does_not_depend_on_ids_and_times(client: Client) -> None:
    request = failing_request(catalog.world("claims"), 3)
    said = [client.ask("claims/0/x", "sim-critic", f"rollout {n}f3a, {n} s\n{request}", temperature=0) for n in (1, 2)]
    assert said[0] == said[1]


def test_an_unknown_model_or_family_is_refused(client: Client) -> None:
    for path, model in (("claims/0/x", "gpt-5"), ("nowhere/0/x", "sim-task")):
        body = json.dumps({"model": model, "messages": []})
        client.connection.request("POST", f"/{path}/v1/chat/completions", body)
        reply = client.connection.getresponse()
        reply.read()
        assert reply.status in (400, 404)


# -- critic and editor ------------------------------------------------------------------------------------------------


def failing_request(world: World, cases: int, reward: float = 0.0) -> str:
    """A request as our critic gets it: the start prompt, and some cases with one reward and no feedback."""
    template = PromptTemplate(template=world.start["prompt"])
    outcomes = [outcome(world, task, "case: nothing.", reward) for task in world.tasks(0, TRAIN[:cases])]
    return ours(world, template, outcomes)


def outcome(world: World, task: Any, said: str, reward: float, *feedback: str) -> Outcome:
    prompt = world.start["prompt"].format(case=task.text)
    messages = [{"role": "system", "content": prompt}, {"role": "assistant", "content": said}]
    place, what = Place("train", task.number), {"number": task.number, "case": task.text}
    return Outcome(
        place, "r", "succeeded", reward, True, what, feedback=feedback, conversations=[{"messages": messages}]
    )


def ours(world: World, template: PromptTemplate, outcomes: list[Outcome], which: Any = CRITICS[0]) -> str:
    shown = transcript.experiments(outcomes, template)
    (message,) = which.message(
        prompt_template=template.template,
        component="prompt",
        others=[],
        rules="- Keep the placeholder {case}.",
        runs=transcript.runs(shown),
        experiments=shown,
    )
    return message["content"]


def test_the_critic_names_only_what_cases_that_it_was_shown_and_that_failed_are_about() -> None:
    for family in catalog.FAMILIES.values():
        world = catalog.world(family.name)
        if len(family.components) > 1:
            continue
        seen = reading.read(world, [{"content": failing_request(world, 3)}])
        allowed = {aspect for case in seen.cases for aspect in case.aspects}
        named: set[str] = set()
        for sample in range(300):
            for _, line, _ in reading.POINT.findall(models.critique(world, seen, random.Random(sample))):
                if (known := world.line_of.get(plain(line))) is not None:
                    named.add(world.rules[known[0]].aspect)
        held = {
            world.rules[world.line_of[plain(line)][0]].aspect
            for line in seen.blocks[0].lines
            if plain(line) in world.line_of
        }
        assert named
        assert named <= allowed | held


def test_the_critic_has_nothing_to_add_where_nothing_failed_or_nothing_was_shown() -> None:
    world = catalog.world("claims")
    for text in (failing_request(world, 4, reward=1.0), failing_request(world, 0)):
        seen = reading.read(world, [{"content": text}])
        said = "\n".join(models.critique(world, seen, random.Random(sample)) for sample in range(200))
        added = [line for kind, line, _ in reading.POINT.findall(said) if kind == "Add"]
        assert not [line for line in added if plain(line) in world.line_of]


def test_feedback_that_names_an_aspect_outweighs_what_a_case_only_mentions() -> None:
    world = catalog.world("claims")
    task = world.task(0, 0)
    wrong = world.rules[task.checks[0].rule].aspect
    template = PromptTemplate(template=world.start["prompt"])
    told = ours(world, template, [outcome(world, task, "?", 0.0, f"case-0000: the {wrong} are wrong.")])
    seen = reading.read(world, [{"content": told}])
    assert seen.cases[0].named == (wrong,)
    assert seen.cases[0].reward == 0.0
    said = "\n".join(models.critique(world, seen, random.Random(sample)) for sample in range(200))
    named = [
        world.rules[known[0]].aspect
        for _, line, _ in reading.POINT.findall(said)
        if (known := world.line_of.get(plain(line)))
    ]
    assert named.count(wrong) > 0.8 * len(named)


def upstream_format(world: World, rewards: list[float]) -> str:
    """As upstream's first critic text is rendered."""
    parts = [
        "You optimize a prompt template.\n\n# Original Prompt Template\n",
        world.start["prompt"],
        "\n# Experiments\n",
    ]
    for task, reward in zip(world.tasks(0, TRAIN[: len(rewards)]), rewards, strict=True):
        said = [{"role": "user", "content": world.start["prompt"].format(case=task.text)}]
        said.append({"role": "assistant", "content": f"case-{task.number:04d}: x=ABCD."})
        parts.append(f"This experiment has succeeded. It gets a final reward: {reward}\n")
        parts.append(json.dumps([{"messages": said, "tools": None}]))
    return "\n".join(parts)


def gepa_format(world: World, rewards: list[float]) -> str:
    """As gepa shows it to a reflecting model."""
    parts = [f"I provided an assistant with these instructions:\n```\n{world.start['prompt']}\n```\nExamples:\n```"]
    for number, (task, reward) in enumerate(zip(world.tasks(0, TRAIN[: len(rewards)]), rewards, strict=True), 1):
        parts.append(f"# Example {number}\n## Inputs\n### case\n{task.text}\n## Feedback\nThe score is {reward:.2f}.")
    return "\n".join([*parts, "```\nProvide the new instructions within ``` blocks."])


def our_format(world: World, rewards: list[float]) -> str:
    tasks = world.tasks(0, TRAIN[: len(rewards)])
    outcomes = [outcome(world, task, "?", reward) for task, reward in zip(tasks, rewards, strict=True)]
    return ours(world, PromptTemplate(template=world.start["prompt"]), outcomes, REFLECTION)


@pytest.mark.parametrize("form", [upstream_format, gepa_format, our_format])
def test_prompt_cases_and_rewards_are_read_from_each_optimisers_format(form: Any) -> None:
    world = catalog.world("claims")
    rewards = [0.0, 1.0, 0.5, 0.25]
    seen = reading.read(world, [{"content": form(world, rewards)}])
    assert [(case.number, case.reward) for case in seen.cases] == list(enumerate(rewards))
    assert [case.aspects for case in seen.cases] == [
        tuple(world.rules[rule].aspect for rule in task.shown) for task in world.tasks(0, TRAIN[:4])
    ]
    (block,) = seen.blocks
    assert block.template
    assert world.compose("prompt", block.lines) == world.start["prompt"]
    assert seen.places == ("case",)
    assert seen.fenced == (form is not upstream_format)


@pytest.mark.parametrize("which", EDITORS)
def test_the_editor_works_points_in_and_answers_in_the_form_that_is_asked_for(which: Any) -> None:
    world = catalog.world("claims")
    rules = [world.rules[rule] for rule in world.of("prompt", useful=True)[:2]]
    critique = "\n".join(f'- Add: "{rule.best}"' for rule in rules)
    (message,) = which.message(
        prompt_template=world.start["prompt"], component="prompt", others=[], rules="Keep {case}.", critique=critique
    )
    seen = reading.read(world, [message])
    assert seen.tag == "new_prompt"
    assert len(seen.points) == 2
    replies = [models.edit(world, seen, random.Random(sample)) for sample in range(200)]
    inside = [
        found.group(1) for reply in replies if (found := re.search(r"<new_prompt>\n(.*)\n</new_prompt>", reply, re.S))
    ]
    assert len(inside) > 180
    first = sum(rules[0].best in text for text in inside) / len(inside)
    second = sum(rules[1].best in text for text in inside) / len(inside)
    assert 0.5 < first < 0.95
    assert second < 0.1 if seen.one_point else 0.5 < second < 0.95
    assert 0.8 < sum("{case}" in text for text in inside) / len(inside) < 1.0


@pytest.mark.parametrize("name", catalog.FAMILIES)
def test_the_oracle_is_within_reach_of_critic_and_editor(name: str) -> None:
    world = catalog.world(name)
    tasks, draw = world.tasks(0, TEST[:25]), random.Random(name)
    now, score = dict(world.start), world.expected(world.start, tasks)
    goal = score + 0.9 * (world.expected(world.oracle, tasks) - score)
    for step in range(1500):
        if score > goal:
            return
        role = world.family.components[step % len(world.family.components)]
        shown = draw.sample(world.tasks(0, TRAIN), 3)
        cases = "\n".join(f"reward: 0.0\n{task.text}" for task in shown)
        seen = reading.read(world, [{"content": f"{now[role]}\n\n{cases}"}])
        reply = models.reflect(world, seen, draw)
        if (found := world.expected({**now, role: reply}, tasks)) > score:
            now[role], score = reply, found
    pytest.fail(f"no more than a gain of {world.gain(now, tasks):.2f}")


@pytest.mark.slow
def test_runs_without_http_and_store_come_to_the_same_end(client: Client) -> None:
    def lines(script: str, *words: str) -> str:
        command = [sys.executable, str(BED / script), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    address, settings = f"http://{client.connection.host}:{client.connection.port}", '{"preset": "auto"}'
    words = ["--endpoint", address, "--family", "railway", "--seed", "900", "--settings", settings]
    driven = json.loads(lines("ours.py", *words, "--budgets", "200", "--runners", "3").splitlines()[0])
    direct = lines("direct.py", settings, "--families", "railway", "--seeds", "1", "--budgets", "200", "--jobs", "1")
    assert direct.startswith(f"200: {driven['gain']:.3f}")
    assert driven["spent"] <= 200
