"""What a run does not read because of how it was started; paths that it would miss at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.types import ConfigError
from agentlightning.verl.config import load_config
from agentlightning.verl.config.entry import Entry, entry_notes
from tests.e2e.letters import TASKS, config, letters_agent, make_model

BASE = {"actor_rollout_ref.model.path": "some/model"}
OWN_AGENT = Entry(reads_rows=False, reads_files=False, n_train=8, n_val=4)
MAIN_PPO = Entry(reads_rows=True, reads_files=True, n_train=8, n_val=4)
NO_VALIDATION = Entry(reads_rows=True, reads_files=True, n_train=8, n_val=None)


def keys(settings: dict[str, Any], entry: Entry) -> set[str]:
    resolved = load_config(settings, base=BASE)
    return {note.key for note in entry_notes(resolved.config, resolved.given, entry)}


@pytest.mark.parametrize(
    ("key", "value", "entry"),
    [
        ("data.prompt_key", "question", OWN_AGENT),
        ("data.reward_fn_key", "kind", OWN_AGENT),
        ("data.filter_overlong_prompts", True, OWN_AGENT),
        ("data.truncation", "left", OWN_AGENT),
        ("reward.custom_reward_function.path", "reward.py", OWN_AGENT),
        ("reward.custom_reward_function.reward_kwargs", {"bonus": 1}, OWN_AGENT),
        ("data.train_files", "train.parquet", OWN_AGENT),
        ("data.val_files", "val.parquet", OWN_AGENT),
        ("trainer.experiment_name", "first", OWN_AGENT),
        ("trainer.test_freq", 5, NO_VALIDATION),
        ("trainer.validation_data_dir", "answers", NO_VALIDATION),
        ("data.val_max_samples", 3, NO_VALIDATION),
        ("actor_rollout_ref.rollout.val_kwargs.n", 4, NO_VALIDATION),
    ],
)
def test_a_key_that_this_run_does_not_read_is_named(key: str, value: Any, entry: Entry) -> None:
    assert any(named == key or named.startswith(f"{key}.") for named in keys({key: value}, entry))
    assert keys({key: value}, MAIN_PPO) == set()


def test_defaults_need_no_word() -> None:
    assert keys({"data.prompt_key": "prompt", "data.truncation": "error", "trainer.test_freq": -1}, OWN_AGENT) == set()
    assert keys({"trainer.val_before_train": False}, NO_VALIDATION) == set()


def test_a_batch_larger_than_the_tasks_is_said_where_it_was_asked_for() -> None:
    assert keys({"data.train_batch_size": 64}, MAIN_PPO) == {"data.train_batch_size"}
    assert keys({"data.train_batch_size": 8}, MAIN_PPO) == set()
    assert keys({}, MAIN_PPO) == set()


def test_a_run_of_ones_own_agent_says_what_it_does_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    changes = {"trainer.total_training_steps": 1, "trainer.save_freq": -1, "data.prompt_key": "question"}
    algorithm = agl.VERL(config(make_model(tmp_path / "model"), **changes))
    agl.Trainer(algorithm=algorithm, n_runners=4, run_dir=tmp_path / "run").fit(letters_agent, TASKS)
    said = capsys.readouterr().out
    assert "data.prompt_key = 'question'" in said
    assert "your own agent reads its task" in said
    assert "trainer.test_freq = 4" in said
    assert "there are no validation tasks" in said


def test_a_run_that_fails_at_the_start_leaves_its_name_free(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    wrong = {"actor_rollout_ref.actor.optim.optimizer_impl": "no_such.optim"}
    trainer = agl.Trainer(algorithm=agl.VERL(config(model, **wrong)), run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match="no_such"):
        trainer.fit(letters_agent, TASKS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["default_local_dir", "rollout_data_dir", "validation_data_dir"])
def test_a_directory_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    load_config({f"trainer.{name}": str(tmp_path / "new" / "deep")}, base=BASE).check_machine()
    with pytest.raises(ConfigError, match=f"`trainer.{name}`.*give another"):
        load_config({f"trainer.{name}": str(tmp_path / "file")}, base=BASE).check_machine()


def test_a_checkpoint_that_is_not_there_is_refused_before_the_run(tmp_path: Path) -> None:
    place = str(tmp_path / "global_step_9")
    resolved = load_config({"trainer.resume_mode": "resume_path", "trainer.resume_from_path": place}, base=BASE)
    with pytest.raises(ConfigError, match="no such directory"):
        resolved.check_machine()
