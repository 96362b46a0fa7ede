"""What each proposer asks for, and what it makes of the replies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentlightning.algorithm.apo.models import Models
from agentlightning.algorithm.apo.strategies import build
from agentlightning.algorithm.apo.strategies.base import Proposer
from agentlightning.algorithm.apo.strategies.proposers.critique import Critique
from agentlightning.algorithm.apo.strategies.proposers.history import History
from agentlightning.algorithm.apo.strategies.proposers.merge import Merge
from agentlightning.algorithm.apo.strategies.proposers.mixed import Mixed
from agentlightning.algorithm.apo.strategies.proposers.paraphrase import Paraphrase
from agentlightning.algorithm.apo.strategies.proposers.reflect import Reflect
from agentlightning.types import ConfigError
from tests.endpoint import Body, asked, completion, refusal

Make = Callable[..., Any]
MODELS = Models("critic", "editor")


def critic_and_editor(body: Body) -> Any:
    """The critic names the tasks that it sees; the editor puts the critique into the prompt."""
    text = asked(body)
    if body["model"] == "critic":
        return "- say " + "".join(q for q in "abc" if f"answer to {q}" in text)
    critique = text.split("<critique>")[1].split("</critique>")[0].strip()
    return f"Sure!\n<new_prompt>\nDo {{q}}, and {critique}\n</new_prompt>"


async def test_the_critic_sees_what_happened_and_the_editor_what_the_critic_said(one: Make) -> None:
    async with one(critic_and_editor) as world:
        jobs = await world.jobs((world.state.candidates[0], "p"), tasks=[0, 1, 2, 3])
        [made] = await Critique(models=MODELS).propose(world.state, jobs)
        assert made.texts == {"p": "Do {q}, and - say abc"}
        assert (made.operator, made.component, made.why) == ("critique", "p", "- say abc")
        assert made.parents == (world.state.candidates[0],)
        critic, editor = world.endpoint.bodies
        assert (critic["model"], editor["model"]) == ("critic", "editor")
        assert {message["role"] for body in (critic, editor) for message in body["messages"]} == {"user"}
        text = asked(critic)
        assert "Do {q}." in text
        assert text.count('status="succeeded" reward="0.5"') == 3
        assert text.count('status="failed" reward="none, which counts as 0"') == 1
        assert "KeyError: 'place'" in text
        assert text.count("the judge's words") == 3
        assert "exactly so: {q}." in asked(editor)


async def test_a_critic_sees_as_many_runs_as_it_is_to_in_random_order(one: Make) -> None:
    async with one(critic_and_editor) as world:
        jobs = await world.jobs(*[(world.state.candidates[0], "p")] * 8, tasks=[0, 1, 2])
        await Critique(models=MODELS, batch_size=2).propose(world.state, jobs)
        shown = [asked(body) for body in world.endpoint.bodies if body["model"] == "critic"]
        orders = {
            tuple(sorted((q for q in "abc" if f"answer to {q}" in text), key=lambda q: text.index(f"answer to {q}")))
            for text in shown
        }
        assert {len(order) for order in orders} == {2}
        assert len(orders) > 2


async def test_only_runs_below_a_reward_are_shown_where_there_are_any(one: Make) -> None:
    def reward(texts: Any, task: Any) -> float:
        return float(task["q"] != "b")

    async with one(critic_and_editor, reward) as world:
        proposer = Critique(models=MODELS, only_below=1.0)
        start = world.state.candidates[0]
        [made] = await proposer.propose(world.state, await world.jobs((start, "p"), tasks=[0, 1, 2]))
        assert made.why == "- say b"
        world.state.rounds.append(world.state.rounds[0])
        [made] = await proposer.propose(world.state, await world.jobs((start, "p"), tasks=[0, 2]))
        assert made.why == "- say ac"


async def test_a_job_whose_critic_or_editor_says_nothing_comes_to_nothing_and_the_others_go_on(one: Make) -> None:
    def answer(body: Body) -> Any:
        text = asked(body)
        if body["model"] == "critic":
            return refusal(400) if "answer to a" in text else critic_and_editor(body)
        return completion("<new_prompt>Do {q}, and th", finish="length") if "say b" in text else critic_and_editor(body)

    async with one(answer) as world:
        start = world.state.candidates[0]
        jobs = [job for task in range(3) for job in await world.jobs((start, "p"), tasks=[task])]
        jobs = [job._replace(number=number) for number, job in enumerate(jobs)]
        made = await Critique(models=MODELS).propose(world.state, jobs)
        assert [proposal and proposal.why for proposal in made] == [None, None, "- say c"]


async def test_the_same_request_for_two_children_brings_two_samples(one: Make) -> None:
    async with one(lambda body: f"<new_prompt>Do {{q}} {body['seed']}</new_prompt>") as world:
        jobs = await world.jobs(*[(world.state.candidates[0], "p")] * 3)
        made = await Paraphrase(models=MODELS).propose(world.state, jobs)
        assert len({proposal.texts["p"] for proposal in made}) == 3


async def test_users_own_texts_take_the_place_of_ours(one: Make, tmp_path: Path) -> None:
    shown = "{{ e.status }} {{ e.final_reward }} {{ e.messages[0][0].content }}"
    (tmp_path / "g.jinja").write_text(
        "CRITIC {{ prompt_template }} {% for e in experiments %}[" + shown + "]{% endfor %}"
    )
    (tmp_path / "a.txt").write_text("EDIT A {{ prompt_template }}: {{ critique }}")
    (tmp_path / "b.txt").write_text("EDIT B {{ prompt_template }}: {{ critique }}")
    models = Models(
        "critic",
        "editor",
        gradient_prompt_files=[tmp_path / "g.jinja"],
        apply_edit_prompt_files=[tmp_path / "a.txt", str(tmp_path / "b.txt")],
    )
    async with one(lambda body: "new {q}") as world:
        jobs = await world.jobs(*[(world.state.candidates[0], "p")] * 6, tasks=[0])
        made = await Critique(models=models).propose(world.state, jobs)
        assert {proposal.texts["p"] for proposal in made} == {"new {q}"}
        texts = {asked(body) for body in world.endpoint.bodies}
        assert texts == {"CRITIC Do {q}. [succeeded 0.5 Do a.]", "EDIT A Do {q}.: new {q}", "EDIT B Do {q}.: new {q}"}


async def test_paraphrases_are_made_of_the_edited_text(one: Make) -> None:
    def answer(body: Body) -> str:
        if "Paraphrase" in asked(body):
            return "PARA " + asked(body).split("<prompt>\n")[1].split("\n</prompt>")[0]
        return critic_and_editor(body)

    async with one(answer) as world:
        other = world.add([world.state.candidates[0]], p="Other {q}.")
        start = world.state.candidates[0]
        jobs = await world.jobs((start, "p"), (start, "p"), (start, "p"), (other, "p"), tasks=[0])
        made = await Critique(models=MODELS, paraphrases=1).propose(world.state, jobs)
        assert [proposal.operator for proposal in made] == ["critique", "paraphrase", "critique", "critique"]
        assert made[1].texts["p"] == "PARA " + made[0].texts["p"]
        assert [proposal.parents[0].id for proposal in made] == ["v0", "v0", "v0", other.id]


async def test_reflection_takes_what_stands_within_fences(one: Make) -> None:
    async with one(lambda body: "Thoughts.\n```text\nDo {q}:\n```json\n{{}}\n```\nwell.\n```\nBye.") as world:
        jobs = await world.jobs((world.state.candidates[0], "p"), tasks=[0, 1, 2])
        [made] = await Reflect(models=MODELS).propose(world.state, jobs)
        assert made.texts["p"] == "Do {q}:\n```json\n{{}}\n```\nwell."
        assert (made.operator, world.endpoint.bodies[0]["model"]) == ("reflect", "critic")
        assert all(f"answer to {q}" in asked(world.endpoint.bodies[0]) for q in "abc")


async def test_a_perfect_batch_costs_no_reflection(one: Make) -> None:
    async with one(lambda body: "```\nnew {q}\n```", lambda texts, task: float(task["q"] != "b")) as world:
        start = world.state.candidates[0]
        jobs = [*await world.jobs((start, "p"), tasks=[0]), *await world.jobs((start, "p"), tasks=[1])]
        jobs = [job._replace(number=number) for number, job in enumerate(jobs)]
        made = await Reflect(models=MODELS, perfect=1.0).propose(world.state, jobs)
        assert [proposal is None for proposal in made] == [True, False]
        assert len(world.endpoint.bodies) == 1


async def test_of_several_prompts_one_is_changed_by_the_calls_that_it_was_in(two: Make) -> None:
    async with two(lambda body: "```\nWrite well: {q}\n```") as world:
        jobs = await world.jobs((world.state.candidates[0], "write"), tasks=[0])
        [made] = await Reflect(models=MODELS).propose(world.state, jobs)
        assert made.texts == {"plan": "Plan {q}.", "write": "Write well: {q}"}
        text = asked(world.endpoint.bodies[0])
        assert "[user] Write a." in text
        assert "[user] Plan a." not in text
        assert "`write`; the others (plan) stay" in text


def by_length(texts: Any, task: Any) -> float:
    """Longer prompts are better, which suits for tests of what is best."""
    return len("".join(texts.values())) / 100


async def test_history_shows_the_best_texts_the_lowest_score_first(one: Make) -> None:
    async with one(lambda body: "<new_prompt>Try {q}</new_prompt>", by_length) as world:
        start = world.state.candidates[0]
        more = [world.add([start], p="{q}" + "x" * n) for n in (40, 10, 20, 30)]
        await world.validated(start, *more)
        [made] = await History(models=MODELS, top=3).propose(world.state, await world.jobs((start, "p")))
        assert made.texts == {"p": "Try {q}"}
        text = asked(world.endpoint.bodies[0])
        places = [text.index("{q}" + "x" * n + "\n</prompt>\nScore: " + str(n + 3)) for n in (20, 30, 40)]
        assert places == sorted(places)
        assert "Score: 13" not in text
        assert "val 0" not in text


async def test_history_shows_train_tasks_without_what_was_said(one: Make) -> None:
    async with one(lambda body: "<new_prompt>Try {q}</new_prompt>") as world:
        start = world.state.candidates[0]
        await world.validated(start)
        await History(models=MODELS, tasks=2).propose(world.state, await world.jobs((start, "p"), tasks=[0, 1, 2]))
        text = asked(world.endpoint.bodies[0])
        assert text.count("Task:") == 2
        assert "answer to" not in text
        assert "val 0" not in text


async def test_a_merge_takes_of_each_prompt_the_changed_one_and_asks_nobody(two: Make) -> None:
    async with two(lambda body: "never", by_length) as world:
        start = world.state.candidates[0]
        left = world.add([start], plan="Plan {q} carefully.")
        right = world.add([start], write="Write {q} in full.")
        await world.validated(start, left, right)
        jobs = await world.jobs((right, "plan"), (left, "write"))
        made = await Merge(models=MODELS).propose(world.state, jobs)
        assert made[0].texts == {"plan": "Plan {q} carefully.", "write": "Write {q} in full."}
        assert {parent.id for parent in made[0].parents} == {left.id, right.id}
        assert made[0].operator == "merge"
        assert made[1] is None  # the pair is used up
        assert world.endpoint.bodies == []
        assert world.state.admit(made[0]) is not None
        assert await Merge(models=MODELS).propose(world.state, jobs) == [None, None]


async def test_where_both_changed_a_prompt_the_better_one_counts(two: Make) -> None:
    async with two(lambda body: "never", by_length) as world:
        start = world.state.candidates[0]
        left = world.add([start], plan="Plan {q} once.")
        right = world.add([start], plan="Plan {q} twice, and well.", write="Write {q}")
        left = world.add([left], write="Write {q}")  # as right's
        third = world.add([start], plan="Plan {q} three times, and very well.")
        await world.validated(start, left, right, third)
        world.state.archive = [right, third]
        [made] = await Merge(models=MODELS).propose(world.state, await world.jobs((right, "plan")))
        assert made.texts == {"plan": "Plan {q} three times, and very well.", "write": "Write {q}"}


async def test_of_one_prompt_the_editor_merges_two_texts(one: Make) -> None:
    async with one(lambda body: "<new_prompt>Both {q}</new_prompt>", by_length) as world:
        start = world.state.candidates[0]
        left, right = world.add([start], p="Do {q} on the left."), world.add([start], p="Do {q} on the right side.")
        await world.validated(start, left, right)
        [made] = await Merge(models=MODELS).propose(world.state, await world.jobs((left, "p")))
        assert made.texts == {"p": "Both {q}"}
        assert [parent.id for parent in made.parents] == [right.id, left.id]
        [body] = world.endpoint.bodies
        assert body["model"] == "editor"
        assert "Do {q} on the left." in asked(body)
        assert "Do {q} on the right side." in asked(body)


async def test_what_fell_behind_its_ancestor_or_descends_from_the_other_is_not_merged(one: Make) -> None:
    async with one(lambda body: "never", by_length) as world:
        start = world.state.candidates[0]
        worse, better = world.add([start], p="{q}"), world.add([start], p="Do {q} on the right side.")
        child = world.add([better], p="Do {q} on the right side only.")
        await world.validated(start, worse, better, child)
        jobs = await world.jobs((better, "p"), (worse, "p"), (child, "p"))
        assert await Merge(models=MODELS).propose(world.state, jobs) == [None, None, None]
        untried = world.add([start], p="Do {q} on the left.")
        assert await Merge(models=MODELS).propose(world.state, await world.jobs((untried, "p"))) == [None]


async def test_a_job_that_can_not_be_merged_goes_to_the_first_proposer(one: Make) -> None:
    async with one(lambda body: f"```\nnew {{q}} {body['seed']}\n```") as world:
        proposer = Mixed(["reflect", {"name": "merge"}, Paraphrase(models=MODELS)], [1, 8, 1], models=MODELS)
        assert proposer.batch_size == 3
        jobs = await world.jobs(*[(world.state.candidates[0], "p")] * 30, tasks=[0])
        operators = [made.operator for made in await proposer.propose(world.state, jobs)]
        assert set(operators) == {"reflect", "paraphrase"}
        assert operators.count("reflect") > 20
        assert {body["model"] for body in world.endpoint.bodies} == {"critic", "editor"}


@pytest.mark.parametrize(
    ("name", "batch_size"), [("critique", 4), ("reflect", 3), ("paraphrase", 0), ("merge", 0), ("history", 0)]
)
def test_each_proposer_is_built_by_name_and_says_its_batch(name: str, batch_size: int) -> None:
    made: Proposer = build("proposer", name, models=MODELS)
    assert made.batch_size == batch_size
    made = build("proposer", {"name": name, "batch_size": 7}, models=MODELS)
    assert made.batch_size == 7
    with pytest.raises(ConfigError, match="`batch_size` must be a whole number"):
        build("proposer", {"name": name, "batch_size": -1}, models=MODELS)


def test_weights_of_a_mix_fit_its_parts() -> None:
    for weights in ([1], [0, 0], [1, -1]):
        with pytest.raises(ConfigError, match="`weights`"):
            Mixed(["reflect", "merge"], weights)


async def test_the_same_seed_asks_the_same_and_another_seed_something_else(one: Make) -> None:
    async with one(critic_and_editor) as world:
        jobs = await world.jobs(*[(world.state.candidates[0], "p")] * 4, tasks=[0, 1, 2, 3])
        proposer = Critique(models=MODELS, shown=2)
        first = await proposer.propose(world.state, jobs)
        count = len(world.endpoint.bodies)
        assert await proposer.propose(world.state, list(jobs)) == first
        assert len(world.endpoint.bodies) == count
        world.state.seed = 1
        await proposer.propose(world.state, jobs)
        assert len(world.endpoint.bodies) > count
