"""Models from disk and back: whole, or one clear line."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CohereConfig, Gemma2Config, GPTNeoConfig, MambaConfig

from agentlightning.inference import Engine, SamplingParams, load_model, packed_hidden_states, save_model
from agentlightning.types import ModelError


@pytest.fixture
def broken(model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the model for tests to damage."""
    return shutil.copytree(model_dir, tmp_path / "broken")


def test_a_model_is_loaded_for_packed_tokens(model_dir: Path) -> None:
    loaded = load_model(model_dir)
    assert loaded.path == str(model_dir)
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.tokenizer.eos_token == "<|im_end|>"
    assert packed_hidden_states(loaded.model, torch.tensor([5, 6, 7]), [0, 1, 3]).shape == (3, 64)
    assert load_model(model_dir, dtype="bfloat16").model.dtype == torch.bfloat16


def test_tokenizer_template_and_config_can_be_others(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "words")
    (tmp_path / "words" / "model.safetensors").unlink()
    loaded = load_model(
        model_dir,
        tokenizer=tmp_path / "words",
        chat_template="{{ messages[0].content }}!",
        overrides={"attention_dropout": 0.25},
    )
    assert loaded.tokenizer.name_or_path == str(tmp_path / "words")
    assert loaded.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    assert loaded.model.config.attention_dropout == 0.25
    assert load_model(model_dir).model.config.attention_dropout == 0.0
    with pytest.raises(ModelError, match="no `atention_dropout` in its configuration"):
        load_model(model_dir, overrides={"atention_dropout": 0.25})


def test_bfloat16_runs(model_dir: Path, start: Callable[..., Engine]) -> None:
    loaded = load_model(model_dir, dtype="bfloat16")
    engine = start(loaded.model)
    futures = [engine.submit([5] * n, SamplingParams(max_tokens=150, seed=n, stop_token_ids=())) for n in (1, 3, 40)]
    for future in futures:
        got = future.result(timeout=100)
        ids = torch.tensor([*got.prompt_ids, *got.token_ids])
        with torch.no_grad():
            logits = loaded.model(ids[None]).logits[0, len(got.prompt_ids) - 1 : -1].float()
        expected = torch.log_softmax(logits, -1).gather(1, ids[len(got.prompt_ids) :, None].long())[:, 0]
        assert (expected - torch.from_numpy(got.logprobs)).abs().mean() < 0.05


def test_what_is_saved_loads_anywhere(model_dir: Path, tmp_path: Path) -> None:
    loaded = load_model(model_dir)
    with torch.no_grad():
        loaded.model.model.norm.weight.mul_(2)
    save_model(loaded.model, loaded.tokenizer, tmp_path / "new" / "checkpoint")
    files = {path.name for path in (tmp_path / "new" / "checkpoint").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert "agl" not in json.loads((tmp_path / "new" / "checkpoint" / "config.json").read_text()).values()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "checkpoint")
    assert plain.config._attn_implementation == "sdpa"
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(plain(ids).logits, loaded.model(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new" / "checkpoint")
    assert tokenizer.chat_template == loaded.tokenizer.chat_template


def test_saving_replaces_whole_checkpoints(model_dir: Path, tmp_path: Path) -> None:
    loaded, target = load_model(model_dir), tmp_path / "checkpoint"
    save_model(loaded.model, loaded.tokenizer, target)
    (target / "left over").touch()
    save_model(loaded.model, loaded.tokenizer, target)
    assert not (target / "left over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_failed_save_leaves_what_was_there(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, target = load_model(model_dir), tmp_path / "checkpoint"
    save_model(loaded.model, loaded.tokenizer, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loaded.tokenizer, "save_pretrained", full)
    with pytest.raises(ModelError, match=r"can't write the model to .*No space left on device"):
        save_model(loaded.model, loaded.tokenizer, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("path", ["/no/such/folder", "no-such-folder", "./a/b", "~/no/such/folder", "a/b/c"])
def test_a_path_that_is_not_there(path: str) -> None:
    with pytest.raises(ModelError, match=rf"no model folder at `{path}`"):
        load_model(path)


def test_a_hub_name_without_a_hub_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(ModelError, match=r"`nobody/nothing`.*no such folder.*hub"):
        load_model("nobody/nothing")


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path)


def test_truncated_weights(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"weights of .* are damaged or cut off"):
        load_model(broken)


def test_weights_that_are_missing(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4, "layer_types": None}))
    with pytest.raises(ModelError, match=r"lacks 12 weights, such as `model\.layers\.3\."):
        load_model(broken)


def test_no_weights_at_all(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="can't load"):
        load_model(broken)


def test_a_config_that_is_not_json(broken: Path) -> None:
    (broken / "config.json").write_text("{")
    with pytest.raises(ModelError, match="can't load") as caught:
        load_model(broken)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_no_causal_lm(broken: Path) -> None:
    (broken / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="can't load"):
        load_model(broken)


def test_no_chat_template(broken: Path) -> None:
    (broken / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_model(broken)


def test_a_tokenizer_that_is_too_large(broken: Path, tokenizer: Any) -> None:
    larger = AutoTokenizer.from_pretrained(broken)
    larger.add_tokens([f"<{number}>" for number in range(60)])
    larger.save_pretrained(broken)
    with pytest.raises(ModelError, match="its model only 352"):
        load_model(broken)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            GPTNeoConfig(num_layers=1, num_heads=2, attention_types=[[["global"], 1]], hidden_size=32),
            "attention of its",
        ),
        (MambaConfig(num_hidden_layers=1, hidden_size=32), "not plain attention"),
        (Gemma2Config(num_hidden_layers=1, hidden_size=32, intermediate_size=8), "`softcap`"),
        (CohereConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=8), "output layer"),
    ],
    ids=["attention of its own", "no attention", "capped scores", "scaled logits"],
)
def test_architectures_that_the_engine_cannot_run(tmp_path: Path, tokenizer: Any, config: Any, message: str) -> None:
    config.update({"vocab_size": 352, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_an_unknown_dtype(model_dir: Path) -> None:
    with pytest.raises(ModelError, match="`dtype` is 'int4'"):
        load_model(model_dir, dtype="int4")
