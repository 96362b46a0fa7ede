"""Fine-tuning: what is trained of a conversation, and that a killed run goes on as if nothing had happened."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import agentlightning as agl
from agentlightning.algorithm.sft import FinetuneConfig, finetune
from agentlightning.algorithm.sft.conversations import encode
from agentlightning.learner.learner import Learner
from agentlightning.types import ConfigError, DatasetError

ROOT = Path(__file__).parents[2]
TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "computes",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    },
}
CONVERSATION = {
    "messages": [
        {"role": "user", "content": "what is 1 + 2?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_0",
                    "type": "function",
                    "function": {"name": "calculator", "arguments": '{"expression": "1 + 2"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": "3"},
        {"role": "assistant", "content": "it is 3"},
    ],
    "tools": [TOOL],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return agl.tiny_model(
        tmp_path_factory.mktemp("sft") / "tiny",
        ["what is the sum of it", "it is so"],
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=64,
    )


@pytest.fixture(scope="module")
def tokenizer(model):
    return AutoTokenizer.from_pretrained(model)


def test_exactly_what_the_assistant_says_is_trained(tokenizer):
    (row,) = encode(tokenizer, [CONVERSATION], max_length=512)
    starts = np.flatnonzero(np.diff(row.mask.astype(int), prepend=0) == 1)
    ends = np.flatnonzero(np.diff(row.mask.astype(int), append=0) == -1) + 1
    said = [tokenizer.decode(row.token_ids[a:b]) for a, b in zip(starts, ends, strict=True)]
    assert said == [
        '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1 + 2"}}\n</tool_call><|im_end|>',
        "it is 3<|im_end|>",
    ]


def test_the_trained_context_is_what_the_engine_would_see(tokenizer):
    """The ids before the second answer are the prompt that a chat request with the same messages gets."""
    (row,) = encode(tokenizer, [CONVERSATION], max_length=512)
    from agentlightning.inference.chat import messages_for_template

    prompt = tokenizer.apply_chat_template(
        messages_for_template(CONVERSATION["messages"][:3]),
        tools=[TOOL],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert row.token_ids[: len(prompt)].tolist() == list(prompt)
    assert row.mask[len(prompt)]
    assert not row.mask[len(prompt) - 1]


@pytest.mark.parametrize(
    ("conversations", "max_length", "match"),
    [
        ([], 100, "no conversations"),
        ([{"messages": [{"role": "user", "content": "hi"}]}], 100, "no assistant message"),
        ([CONVERSATION], 5, "the limit is 5"),
    ],
)
def test_conversations_that_cannot_be_used(tokenizer, conversations, max_length, match):
    with pytest.raises(DatasetError, match=match):
        encode(tokenizer, conversations, max_length=max_length)


def say(word):
    return {"messages": [{"role": "user", "content": "say it"}, {"role": "assistant", "content": word}]}


def test_loss_falls_and_the_model_says_it(model, tmp_path):
    result = finetune(model, [say("what")] * 32, tmp_path / "out", FinetuneConfig(epochs=4, batch_size=4, lr=1e-2))
    assert result["train/loss"] < 0.1
    assert result["train/steps"] == 32
    trained, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(model)
    prompt = tokenizer.apply_chat_template(
        say("")["messages"][:1], add_generation_prompt=True, tokenize=True, return_tensors="pt", return_dict=True
    )
    answer = trained.generate(**prompt, do_sample=False, max_new_tokens=4)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "what<|im_end|>"


SETTINGS = FinetuneConfig(epochs=2, batch_size=4, lr=1e-3, save_every=3, seed=5, threads=1)
WORDS = [say(word) for word in ["what", "is", "the", "sum", "of", "it", "is", "so"]] * 4


def test_a_killed_run_goes_on_to_the_same_weights(model, tmp_path):
    finetune(model, WORDS, tmp_path / "whole", SETTINGS)
    script = f"""
import os, signal
from agentlightning.learner.learner import Learner
from tests.algorithm.test_sft import SETTINGS, WORDS, finetune
from pathlib import Path
update = Learner.update
def dying(self, rows, objective, seen=[]):
    seen.append(1)
    if len(seen) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, rows, objective)
Learner.update = dying
finetune({str(model)!r}, WORDS, Path({str(tmp_path / "killed")!r}), SETTINGS)
"""
    died = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert died.returncode == -9, died.stderr
    assert (tmp_path / "killed.partial" / "latest_checkpointed_iteration.txt").read_text() == "6"
    assert not (tmp_path / "killed").exists()
    finetune(model, WORDS, tmp_path / "killed", SETTINGS)
    assert not (tmp_path / "killed.partial").exists()
    whole, again = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "killed"))
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"config": dataclasses.replace(SETTINGS, lr=9.0)}, "other config"),
        ({"conversations": WORDS[::-1]}, "other rows"),
    ],
)
def test_a_run_begun_with_something_else_is_refused(model, tmp_path, monkeypatch, changed, match):
    update, calls = Learner.update, []

    def interrupted(self, rows, objective):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return update(self, rows, objective)

    monkeypatch.setattr(Learner, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune(model, WORDS, tmp_path / "out", SETTINGS)
    again = {"model": model, "conversations": WORDS, "output": tmp_path / "out", "config": SETTINGS}
    with pytest.raises(ConfigError, match=match):
        finetune(**{**again, **changed})
    assert finetune(**again)["train/steps"] == len(WORDS) * 2 / 4
