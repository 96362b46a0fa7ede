"""The example that tunes prompt and weights in turn, with a model that knows nothing yet and a scripted critic."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.calc import alternate
from examples.calc.model import build
from tests.endpoint import served


def critic_and_editor(body: dict[str, Any]) -> str:
    """Says less around the question, a word each time."""
    said = body["messages"][-1]["content"]
    if "<critique>" not in said:
        return "Say less around the question."
    prompt = said.split("<prompt>")[1].split("</prompt>")[0].strip()
    return f"<new_prompt>{prompt.partition(' ')[2] or prompt}</new_prompt>"


def test_prompt_and_weights_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    build(model, seed=0)
    with served(critic_and_editor) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        options = ["--budget", "40", "--steps", "1", "--rounds", "1", "--val", "4", "--test", "4", "--runners", "8"]
        monkeypatch.setattr(sys, "argv", ["alternate", "--runs-dir", str(tmp_path), "--model", str(model), *options])
        alternate.main()
    run = tmp_path / "calc-alternate"
    assert "{question}" in capsys.readouterr().out.splitlines()[-1]
    assert json.loads((run / "turn-0.json").read_text())["prompt"]["input_keys"] == ["question"]
    assert (run / "0-apo-0" / "apo" / "best_prompt.txt").is_file()
    assert (run / "1-verl" / "checkpoints" / "global_step_1").is_dir()
