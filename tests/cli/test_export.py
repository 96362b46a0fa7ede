"""`agl export`: what was trained, as directories that transformers and peft load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentlightning.learner.checkpoint import LearnerPart, save_checkpoint
from agentlightning.learner.lora import add_lora
from tests.learner.parts import learner_of, steps


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(torch.arange(12)[None], use_cache=False).logits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, Any]:
    """A run with LoRA at steps 1 and 2, one of two policies, and what their models compute."""
    runs = tmp_path_factory.mktemp("runs")
    learner, tokenizer = learner_of(model, lambda base: add_lora(base, rank=3, alpha=6, seed=0))
    full, _ = learner_of(model)
    expected: dict[str, Any] = {"runs": runs}
    for step in (1, 2):
        steps(learner, 2, first=2 * step)
        save_checkpoint(runs / "one" / "checkpoints", step, {"actor": LearnerPart(learner, tokenizer)}, {})
        expected[f"step {step}"] = logits(learner.model)
    steps(full, 2)
    parts = {"planner/actor": LearnerPart(full, tokenizer), "worker/actor": LearnerPart(learner, tokenizer)}
    save_checkpoint(runs / "two" / "checkpoints", 1, parts, {})
    return {**expected, "full": logits(full.model)}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("one",), "step 2"),
        (("one/checkpoints",), "step 2"),
        (("one/checkpoints/global_step_1",), "step 1"),
        (("two", "--policy", "planner"), "full"),
        (("two", "--policy", "worker"), "step 2"),
    ],
)
def test_the_model_loads_without_us(
    agl: Any, run: dict[str, Any], tmp_path: Path, arguments: tuple[str, ...], wanted: str
) -> None:
    output = tmp_path / "model"
    done = agl("export", str(run["runs"] / arguments[0]), str(output), *arguments[1:])
    assert done.returncode == 0, done.stderr
    assert str(output) in done.stdout
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(output)), run[wanted], rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(output).chat_template
    assert not list(tmp_path.glob(".*"))


def test_the_adapter_loads_onto_its_base(agl: Any, run: dict[str, Any], model: Path, tmp_path: Path) -> None:
    done = agl("export", str(run["runs"] / "one"), "adapter", "--adapter")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "adapter of global_step_2: adapter\n"
    wrapped = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "adapter")
    torch.testing.assert_close(logits(wrapped), run["step 2"], rtol=0, atol=1e-6)
    assert not (tmp_path / "adapter" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("{runs}", "out"), "is no checkpoint: give a `global_step_N`"),
        (("nowhere", "out"), "`nowhere` is no checkpoint"),
        (("agents.py", "out"), "`agents.py` is no checkpoint"),
        (("{runs}/one", "."), "`.` exists; give another OUTPUT"),
        (("{runs}/one", "agents.py/out"), "can't write `agents.py/out`"),
        (("{runs}/two", "out"), "the policies planner, worker: name one with `--policy`"),
        (
            ("{runs}/two", "out", "--policy", "judge"),
            "name one with `--policy`, got judge",
        ),
        (("{runs}/one", "out", "--policy", "judge"), "one policy without a name; leave the option out"),
        (("{runs}/two", "out", "--policy", "planner", "--adapter"), "holds no adapter"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    agl: Any, run: dict[str, Any], tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    done = agl("export", *(argument.format(runs=run["runs"]) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_an_incomplete_checkpoint_is_refused(agl: Any, run: dict[str, Any], tmp_path: Path, lost: str) -> None:
    shutil.copytree(run["runs"] / "one" / "checkpoints" / "global_step_2", tmp_path / "global_step_2")
    (tmp_path / "global_step_2" / "actor" / "huggingface" / lost).unlink()
    done = agl("export", "global_step_2", "out")
    assert done.returncode == 2
    assert "is incomplete" in done.stderr
    assert not (tmp_path / "out").exists()
