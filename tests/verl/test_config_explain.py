"""What a key means, by any of its names; and the page of the documentation says what the code says."""

from pathlib import Path

import pytest

from agentlightning.types import ConfigError
from agentlightning.verl.config import as_yaml, load_config
from agentlightning.verl.config.explain import explain, type_text
from agentlightning.verl.config.names import ADDED_KEYS, fields, sections, verl_defaults
from agentlightning.verl.config.overrides import ALIASES, SECTION_ALIASES
from agentlightning.verl.config.tables import with_tables

PAGE = Path(__file__).parent.parent.parent / "docs" / "config.md"


def test_the_page_has_the_tables_that_the_code_makes():
    text = PAGE.read_text("utf-8")
    assert with_tables(text) == text, "run `python -m agentlightning.verl.config.tables docs/config.md`"
    assert "| `trainer.save_freq` | `-1` | `10` |" in text
    assert "| `dapo` | DAPO (arXiv 2503.14476)" in text
    assert "`reward_model.overlong_buffer.*` | `reward.reward_kwargs.overlong_buffer_cfg.*`" in text


def test_every_key_section_and_old_name_has_an_explanation():
    for key in (*fields(), *verl_defaults(), *ADDED_KEYS, *sections(), *ALIASES, *SECTION_ALIASES):
        found = dict(explain(key).rows)
        assert found.get("what") or found.get("instead") or found.get("why"), key


def test_a_field():
    found = explain("actor_rollout_ref.actor.optim.clip_grad")
    rows = dict(found.rows)
    assert found.key == "actor_rollout_ref.actor.grad_clip"
    assert rows["read as"] == "`actor_rollout_ref.actor.grad_clip`"
    assert rows["what"].startswith("Largest norm of the gradient.")
    assert (rows["type"], rows["verl's default"], rows["default here"]) == ("number, above 0", "1.0", "1.0")
    assert rows["here"] == "used"
    different = dict(explain("trainer.save_freq").rows)
    assert different["default here"] == "10; a killed run goes on from its last checkpoint"
    assert dict(explain("critic.ppo_epochs").rows)["follows"].startswith("`actor_rollout_ref.actor.ppo_epochs`")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("data.shuffle", "true or false"),
        ("data.train_files", "text or list of text or null"),
        ("algorithm.lam", "number, at least 0, at most 1"),
        ("algorithm.rollout_correction.rollout_is", "one of token, sequence or null"),
        ("actor_rollout_ref.actor.optim.betas", "2 values, each number"),
        ("actor_rollout_ref.model.override_config", "mapping"),
        ("actor_rollout_ref.rollout.top_k", "whole number, at least -1"),
        ("actor_rollout_ref.rollout.name", "'native'"),
        ("agentlightning.curriculum", "mapping or null"),
    ],
)
def test_types_in_words(key: str, expected: str):
    assert type_text(fields()[key]) == expected


def test_keys_that_are_answered_or_refused():
    replaced = dict(explain("actor_rollout_ref.rollout.gpu_memory_utilization").rows)
    assert "table at start" in replaced["here"]
    assert replaced["instead"].startswith("no memory is reserved")
    refused = dict(explain("reward_model.reward_manager").rows)
    assert refused["read as"] == "`reward.reward_manager.name`"
    assert refused["here"] == "refused with any value but verl's default or naive, dapo, gdpo"
    assert refused["what to do"]


def test_a_section_lists_what_is_in_it():
    found = explain("reward_model.overlong_buffer")
    assert found.key == "reward.reward_kwargs.overlong_buffer_cfg"
    assert [key.rpartition(".")[2] for key, _ in found.below] == ["enable", "len", "penalty_factor", "log"]
    critic = dict(explain("critic").below)
    assert critic["critic.strategy"].startswith("(replaced) nothing to shard")


def test_keys_below_a_mapping_and_of_a_policy():
    inside = dict(explain("actor_rollout_ref.model.override_config.rope_theta").rows)
    assert inside["part of"] == "`actor_rollout_ref.model.override_config`, which takes any names"
    own = explain("agentlightning.policies.planner.actor_rollout_ref.actor.optim.lr")
    assert own.rows[0][1] == "`actor_rollout_ref.actor.optim.lr` of policy `planner` alone"
    assert explain("agentlightning.policies.planner.trainable").key == "agentlightning.policies"


def test_an_unknown_key_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"did you mean `algorithm\.adv_estimator`"):
        explain("algorithm.adv_estimater")


def test_a_printed_configuration_gives_the_same_again(tmp_path: Path):
    words = [
        "actor_rollout_ref.model.path=some/model",
        "actor_rollout_ref.actor.optim.override_optimizer_config.eps=1e-6",
        "agentlightning.credit={name: discounted, gamma: 0.9}",
        "agentlightning.policies.planner.actor_rollout_ref.actor.optim.lr=1e-5",
        "agentlightning.policies.worker.trainable=false",
        "data.train_batch_size=8",
    ]
    config = load_config(words, preset="dapo").config
    path = tmp_path / "mine.yaml"
    path.write_text(as_yaml(config))
    assert load_config(preset=path).config == config
