"""The Python samples, run as they stand but for the changes in `samples`."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

import agentlightning as agl
from tests.e2e.letters import TASKS, letters_agent
from tests.endpoint import served

from .samples import SAMPLES


def run(name: str, **bound: Any) -> dict[str, Any]:
    """The names that a sample leaves behind; `bound` are those that it takes for granted."""
    exec(compile(textwrap.dedent(SAMPLES[name].text), name, "exec"), bound)
    return bound


@pytest.fixture
def agent_with_tasks() -> Iterator[Any]:
    """`fit()` without arguments takes the tasks from the agent."""
    letters_agent.train_dataset = TASKS
    yield letters_agent
    del letters_agent.train_dataset


def test_the_selection_guide_trains_with_its_short_configuration(agent_with_tasks):
    verl = run("000-verl", my_lit_agent=agent_with_tasks)["verl"]
    config = verl.config
    assert (config.data.gen_batch_size, config.data.train_batch_size) == (4, 8)
    assert config.algorithm.adv_estimator == "gae"  # verl's default
    assert [row["step"] for row in verl.history] == list(range(1, 31))  # 30 epochs come before 100 iterations
    assert {row["training/n_rollouts"] for row in verl.history} == {8.0}
    assert verl.history[-1]["actor/grad_norm"] > 0
    assert verl.history[-1]["critic/grad_norm"] > 0


@agl.rollout
def greeter(task: str, prompt_template: agl.PromptTemplate) -> float:
    """Rewards what an editor adds; a prompt without places is given the task all the same."""
    text = prompt_template.format(user_input=task)
    agl.emit_message("be kind to the user" if "kind" not in text else "well said")
    return min(1.0, text.count("kind") / 3)


def critic_and_editor(body: dict[str, Any]) -> str:
    """Always asks for kindness, and adds it."""
    text = body["messages"][-1]["content"]
    if "<new_prompt>" not in text:
        return "- Ask for more kindness." if "be kind" in text else "- Nothing to add."
    prompt = text.split("<prompt>\n")[1].split("\n</prompt>")[0]
    return f"<new_prompt>Be kind. {prompt}</new_prompt>"


@pytest.mark.slow
def test_the_selection_guide_tunes_a_prompt_as_it_stands():
    greeter.train_dataset = greeter.val_dataset = ["Hello", "Who are you?", "Bye", "What now?", "Why?"]
    with served(critic_and_editor) as endpoint:
        names = run("000-apo", my_lit_agent=greeter, openai_client=OpenAI(base_url=endpoint.url, api_key="none"))
    apo, best = names["apo"], names["best_prompt"]
    assert names["initial_prompt"].input_keys == ["user_input"]
    assert (apo.plan.selector.width, apo.plan.selector.branch_factor) == (5, 4)
    assert apo.state.round == 30  # `max_iterations`
    assert best == apo.get_best_prompt()
    assert best.template.count("kind") >= 3
    assert best.template.endswith(names["initial_prompt"].template)
    assert set(endpoint.calls) == {"gpt-4o-mini", "gpt-4.1-mini"}  # critic as given, editor by default


def test_the_reference_page_trains_with_its_whole_configuration():
    trainer = agl.Trainer(agent=letters_agent, n_runners=4)
    algorithm = run("001-verl", trainer=trainer, my_train_dataset=TASKS * 4)["algorithm"]
    assert [row["step"] for row in algorithm.history] == [1, 2]
    assert algorithm.history[-1]["training/n_rollouts"] == 32 * 4
    assert algorithm.history[-1]["actor/grad_norm"] > 0
    assert algorithm.history[-1]["actor/lr"] == 1e-6
    answered = {note.key for note in algorithm.resolved.notes}
    assert {"actor_rollout_ref.rollout.name", "actor_rollout_ref.rollout.gpu_memory_utilization"} <= answered


def test_the_shortcut_makes_the_algorithm():
    names = run("002-shortcut", config={"actor_rollout_ref.model.path": "model"})
    from agentlightning.algorithm.verl import VERL

    assert type(names["made"]) is VERL


class ByHand(agl.LitAgent[Any]):
    """A class-based agent, which resolves the `ProxyLLM` as the page shows."""

    def rollout(self, task: Any, resources: agl.NamedResources, rollout: Any) -> float:
        names = run("002-proxy", resources=resources, rollout=rollout)
        proxy_llm, url = names["proxy_llm"], names["url"]
        assert type(proxy_llm) is agl.ProxyLLM
        assert f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}/v1" in url
        return letters_agent(task, agl.LLM(endpoint=url, model=proxy_llm.model, api_key="none"))


def test_a_class_agent_resolves_the_proxy_by_hand():
    algorithm = agl.VERL(
        {
            "actor_rollout_ref.model.path": "model",
            "data.train_batch_size": 8,
            "data.max_prompt_length": 60,
            "data.max_response_length": 4,
            "agentlightning.threads": 1,
        }
    )
    agl.Trainer(algorithm=algorithm, n_runners=4, max_iterations=1).fit(ByHand(), TASKS)
    assert algorithm.history[-1]["training/n_rollouts_failed"] == 0


def test_both_imports_give_the_package():
    from agentlightning import agl as shortcut

    assert shortcut is agl


def test_run_without_a_store_says_so():
    algorithm = agl.VERL({"actor_rollout_ref.model.path": "model"})
    with pytest.raises(ValueError, match="store"):
        asyncio.run(algorithm.run(TASKS))


def test_a_triplets_input_is_its_prompt():
    triplet = agl.Triplet(prompt={"token_ids": [1]}, response={"token_ids": [2]})
    assert triplet.input is triplet.prompt
