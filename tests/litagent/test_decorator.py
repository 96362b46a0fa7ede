"""Functions as agents: what is injected, what is refused, and that the function stays a function."""

import inspect
import logging
from typing import Any

import pytest

from agentlightning.litagent import LitAgent, llm_rollout, prompt_rollout, rollout
from agentlightning.types import LLM, Attempt, AttemptedRollout, NamedResources, PromptTemplate, ProxyLLM

ATTEMPT = AttemptedRollout(
    rollout_id="ro-1",
    input=None,
    start_time=0,
    attempt=Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0),
)
PROXY = ProxyLLM(endpoint="http://127.0.0.1:1/v1", model="m", api_key="k", sampling_parameters={"top_p": 0.5})
PROMPT = PromptTemplate(template="Say {x}")
RESOURCES: NamedResources = {"prompt": PROMPT, "main_llm": PROXY}


def test_a_decorated_function_is_an_agent_and_stays_a_function():
    @rollout
    def double(task: int, llm: LLM) -> float:
        """Doubles."""
        return task * 2.0

    assert isinstance(double, LitAgent)
    assert double(2, PROXY) == 4.0
    assert double(task=3, llm=PROXY) == 6.0
    assert double.__name__ == "double"
    assert double.__doc__ == "Doubles."
    assert not double.is_async()
    assert double.entry("train")(4, RESOURCES, ATTEMPT) == 8.0


async def test_an_async_function_is_an_async_agent():
    @rollout
    async def agent(task: int, rollout: AttemptedRollout) -> str:
        return f"{task} {rollout.rollout_id}"

    assert agent.is_async()
    entry = agent.entry("val")
    assert inspect.iscoroutinefunction(entry)
    assert await entry(1, RESOURCES, ATTEMPT) == "1 ro-1"
    assert await agent(2, ATTEMPT) == "2 ro-1"
    with pytest.raises(RuntimeError, match="`agent` is async: use `rollout_async`"):
        agent.rollout(1, RESOURCES, ATTEMPT)


async def test_the_wrong_colour_is_refused():
    @rollout
    def agent(task: int) -> None: ...

    with pytest.raises(RuntimeError, match="`agent` is not async"):
        await agent.rollout_async(1, RESOURCES, ATTEMPT)


def test_parameters_are_given_by_name():
    @rollout
    def agent(task: str, rollout: Any, *, prompt_template: Any, llm: Any, resources: Any, extra: int = 7, **more: Any):
        return task, rollout, prompt_template, llm, resources, extra, more

    task, given, prompt, llm, resources, extra, more = agent.entry("train")("t", RESOURCES, ATTEMPT)
    assert (task, given, prompt, extra, more) == ("t", ATTEMPT, PROMPT, 7, {})
    assert llm == resources["main_llm"]
    assert list(resources) == ["prompt", "main_llm"]


def test_a_proxy_llm_is_the_llm_of_the_attempt():
    seen: list[LLM] = []

    @llm_rollout
    def agent(task: str, llm: LLM) -> None:
        seen.append(llm)

    agent.entry("train")("t", RESOURCES, ATTEMPT)
    assert type(seen[0]) is LLM
    assert seen[0].endpoint == "http://127.0.0.1:1/rollout/ro-1/attempt/at-1/v1"
    assert (seen[0].model, seen[0].api_key, seen[0].sampling_parameters) == ("m", "k", {"top_p": 0.5})


@pytest.mark.parametrize("decorate", [rollout, llm_rollout])
def test_a_proxy_llm_can_be_kept(decorate: Any):
    @decorate(strip_proxy=False)
    def agent(task: str, llm: LLM) -> LLM:
        return llm

    assert agent.entry("train")("t", RESOURCES, ATTEMPT) is PROXY


def test_prompt_rollout_with_and_without_brackets():
    @prompt_rollout
    def one(task: str, prompt_template: PromptTemplate) -> str:
        return prompt_template.format(x=task)

    @prompt_rollout()
    def two(task: str, prompt_template: PromptTemplate) -> str:
        return prompt_template.format(x=task)

    assert one.entry("train")("hi", RESOURCES, ATTEMPT) == two.entry("train")("hi", RESOURCES, ATTEMPT) == "Say hi"


def test_the_first_of_several_llms_is_taken_and_said_once(caplog: pytest.LogCaptureFixture):
    @rollout
    def agent(task: str, llm: LLM) -> str:
        return llm.model

    several: NamedResources = {"a": LLM(endpoint="http://a", model="A"), "b": LLM(endpoint="http://b", model="B")}
    with caplog.at_level(logging.WARNING):
        assert [agent.entry("train")("t", several, ATTEMPT) for _ in range(2)] == ["A", "A"]
    assert len(caplog.records) == 1
    assert "`agent` gets `a`, the first of ['a', 'b'], as `llm`" in caplog.text


def test_a_missing_resource_is_named():
    @rollout
    def agent(task: str, llm: LLM) -> None: ...

    with pytest.raises(ValueError, match=r"takes `llm`, but there is no LLM among the resources \(`prompt`"):
        agent.entry("train")("t", {"prompt": PROMPT}, ATTEMPT)


def test_only_functions_that_ask_for_resources_need_some():
    @rollout
    def without(task: str, rollout: Any) -> None: ...

    @rollout
    def with_llm(task: str, llm: LLM) -> None: ...

    assert not without.needs_resources
    assert with_llm.needs_resources


def wrong_first(sample: str, llm: LLM) -> None: ...
def nothing() -> None: ...
def keyword_task(*, task: str) -> None: ...
def unknown(task: str, model: str) -> None: ...
def positional(task: str, llm: LLM, /) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (wrong_first, "the first parameter of `wrong_first` must be called `task`, but it is `sample`"),
        (nothing, "must be called `task`, but it is missing"),
        (keyword_task, "the first parameter of `keyword_task`"),
        (unknown, r"parameter `model` of `unknown` is not known.*`llm`, `prompt_template`, `resources`, `rollout`"),
        (positional, "parameter `llm` of `positional`"),
        (dict, "agents as classes subclass `LitAgent`"),
    ],
)
def test_other_signatures_are_refused_when_the_decorator_runs(function: Any, message: str):
    with pytest.raises(TypeError, match=message):
        rollout(function)


def test_the_special_decorators_check_their_parameter():
    with pytest.raises(TypeError, match="`@llm_rollout` needs a function that takes `llm`"):
        llm_rollout(nothing_but_task)
    with pytest.raises(TypeError, match="`@prompt_rollout` needs a function that takes `prompt_template`"):
        prompt_rollout(nothing_but_task)


def nothing_but_task(task: str) -> None: ...
