"""The built-in agent: what it asks, and what becomes of the answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from aiohttp import web

from agentlightning.algorithm.evaluation import Evaluation
from agentlightning.trainer import Trainer
from agentlightning.types import LLM, PromptTemplate
from agentlightning.verl.reward import Scorer
from agentlightning.verl.single_turn import SingleTurnAgent

TASK = {
    "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 2?"}],
    "data_source": "aime2024",
    "reward_model": {"ground_truth": "4"},
    "extra_info": {},
}


class Endpoint:
    """Answers every chat completion with the same text, and keeps what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.text: str | None = "Answer: 4"
        self.status = 200
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers["authorization"])
        message = {"role": "assistant", "content": self.text}
        return web.json_response({"choices": [{"message": message}]}, status=self.status)


@pytest.fixture
async def endpoint() -> AsyncGenerator[Endpoint]:
    served = Endpoint()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield served
    await runner.cleanup()


async def evaluated(agent: SingleTurnAgent, resources: dict[str, Any], n: int = 1) -> Evaluation:
    evaluation = Evaluation(n=n)
    trainer = Trainer(algorithm=evaluation, max_concurrency=n, initial_resources=resources)
    await asyncio.to_thread(trainer.dev, agent, val_dataset=[TASK])
    return evaluation


def llm(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "template": PromptTemplate(template="unused"),
        "main_llm": LLM(endpoint=endpoint.url, model="m", api_key="k", sampling_parameters={"temperature": 0.5}),
    }


async def test_it_asks_the_prompt_once_and_scores_the_answer(endpoint: Endpoint) -> None:
    found = await evaluated(SingleTurnAgent(), llm(endpoint), n=3)
    assert endpoint.asked == [{"temperature": 0.5, "model": "m", "messages": TASK["prompt"]}] * 3
    assert endpoint.keys == ["Bearer k"] * 3
    assert [answer.reward for answer in found.answers] == [1.0] * 3
    assert found.answers[0].rewards == {"reward": 1.0, "score": 1.0, "acc": 1.0}
    assert found.answers[0].labels == {"pred": "4"}


async def test_an_answer_without_text_is_empty(endpoint: Endpoint) -> None:
    endpoint.text = None
    found = await evaluated(SingleTurnAgent(), llm(endpoint))
    assert (found.answers[0].reward, found.answers[0].labels) == (-1.0, {"pred": "[INVALID]"})


async def test_a_refused_call_fails_the_attempt_with_status_and_answer(endpoint: Endpoint) -> None:
    endpoint.status = 429
    [answer] = (await evaluated(SingleTurnAgent(), llm(endpoint))).answers
    assert answer.rollout.status == "failed"
    assert answer.error["type"] == "RequestFailed"
    assert "429" in answer.error["message"]
    assert json.loads(answer.error["message"].partition(": ")[2])["choices"]


async def test_a_reward_function_that_raises_fails_the_attempt(endpoint: Endpoint, tmp_path: Any) -> None:
    (tmp_path / "reward.py").write_text("def compute_score(**row):\n    return {'acc': 1}\n")
    [answer] = (await evaluated(SingleTurnAgent(Scorer(tmp_path / "reward.py")), llm(endpoint))).answers
    assert (answer.rollout.status, answer.reward) == ("failed", None)
    assert "without `score`" in answer.error["message"]


async def test_without_an_llm_it_says_so() -> None:
    [answer] = (await evaluated(SingleTurnAgent(), {"template": PromptTemplate(template="unused")})).answers
    assert "there is no LLM among the resources" in answer.error["message"]
