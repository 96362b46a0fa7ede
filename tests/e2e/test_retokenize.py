"""A backend that gives no token ids: its rollouts are refused, or trained on tokens made again if one says so."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import agentlightning as agl
from agentlightning.llm_proxy import Backend, LLMProxy
from agentlightning.llm_proxy.backend import Dialect, Json
from agentlightning.semconv import GEN_AI_INPUT_MESSAGES, GEN_AI_OUTPUT_MESSAGES
from agentlightning.types import ChatReply, ConfigError, Span, TrainingError
from agentlightning.verl.retokenize import Retokenizer

from .letters import TASKS, config, letters_agent, make_model


class WithoutIds:
    """What the backend answers, and no tokens."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.speaks = backend.speaks

    async def call(self, dialect: Dialect, body: Json) -> ChatReply:
        return ChatReply((await self._backend.call(dialect, body)).response, [])

    async def stream(self, dialect: Dialect, body: Json) -> AsyncGenerator[Json | ChatReply, None]:
        raise AssertionError("the agent does not stream")
        yield {}


class ForgetfulProxy(LLMProxy):
    def set_backend(self, model_name: str, backend: Backend | None) -> None:
        super().set_backend(model_name, None if backend is None else WithoutIds(backend))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def train(model: Path, run_dir: Path, **changes: Any) -> agl.VERL:
    small = {"trainer.total_training_steps": 1, "trainer.val_before_train": False, "trainer.test_freq": -1}
    algorithm = agl.VERL(config(model, **small, **changes))
    trainer = agl.Trainer(algorithm=algorithm, n_runners=4, run_dir=run_dir, llm_proxy=ForgetfulProxy())
    trainer.fit(letters_agent, TASKS)
    return algorithm


def test_by_default_nothing_is_trained_on_guessed_tokens(model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="without token ids"):
        train(model, tmp_path / "run")


def test_told_so_it_is_trained_and_counted(model: Path, tmp_path: Path) -> None:
    algorithm = train(model, tmp_path / "run", **{"agentlightning.retokenize": True})
    (row,) = algorithm.history
    assert row["training/n_calls_retokenized"] == 32
    assert row["training/n_calls_without_token_ids"] == 0
    assert row["actor/grad_norm"] > 0
    assert row["training/rollout_logprob_gap"] < 1e-5, "the log-probs are those of the weights in training"


def test_an_adapter_of_triplets_cannot_do_it(model: Path) -> None:
    from agentlightning.adapter import episode_adapter

    with pytest.raises(ConfigError, match=r"`agentlightning\.retokenize` is true"):
        episode_adapter(agl.TracerTraceToTriplet(), "m", lambda span: None)


def test_tokens_are_those_of_the_template_up_to_the_end_of_the_answer(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    end = tokenizer.eos_token_id
    span = Span.create(
        "openai.chat.completion",
        rollout_id="ro-1",
        attempt_id="at-1",
        attributes={
            GEN_AI_INPUT_MESSAGES: '[{"role": "user", "content": "say cat"}]',
            GEN_AI_OUTPUT_MESSAGES: '[{"role": "assistant", "content": "the mat"}]',
        },
    )
    call = Retokenizer(tokenizer, frozenset([end]))(span)
    assert call is not None
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "say cat"}], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(call.prompt_ids) == asked
    assert tokenizer.decode(call.response_ids[:-1]) == "the mat"
    assert (call.response_ids[-1], call.logprobs) == (end, None)
    span.attributes[GEN_AI_OUTPUT_MESSAGES] = '[{"role": "nobody", "content": "the mat"}]'
    assert Retokenizer(tokenizer, frozenset([end]))(span) is None
