"""The schema, verl's names and the rules fit together: every key is used, answered or refused."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

import agentlightning
from agentlightning.verl.config import DIFFERENCES, VerlConfig
from agentlightning.verl.config.answers import RULES
from agentlightning.verl.config.interpolation import defaults_of
from agentlightning.verl.config.names import ADDED_KEYS, FREE_KEYS, fields, is_known, nearest, verl_defaults
from agentlightning.verl.config.overrides import ALIASES, SECTION_ALIASES, canonical
from agentlightning.verl.config.rules import find_rule, matches

RECIPES = {
    "algorithm.gdpo_reward_keys": None,
    "algorithm.gdpo_reward_weights": None,
    "algorithm.dpo_beta": 0.1,
    "algorithm.dpo_loss_type": "sigmoid",
    "algorithm.dpo_label_smoothing": 0.0,
    "algorithm.sppo_eta": 1.0,
    "actor_rollout_ref.actor.sppo_eta": 1.0,
    "trainer.ref_update_freq": -1,
    "reward.custom_reward_function.reward_kwargs": {},
    "reward.reward_kwargs.max_resp_len": None,
    "reward.reward_kwargs.overlong_buffer_cfg.enable": False,
    "reward.reward_kwargs.overlong_buffer_cfg.len": 0,
    "reward.reward_kwargs.overlong_buffer_cfg.penalty_factor": 1.0,
    "reward.reward_kwargs.overlong_buffer_cfg.log": False,
}
"""Keys that recipes and reward managers of verl read; it has no default for them in its configuration."""


def test_every_name_of_verl_is_a_field_an_alias_or_has_a_rule():
    assert len(verl_defaults()) == 830
    for key in (*verl_defaults(), *ADDED_KEYS, *(f"{key}.anything" for key in FREE_KEYS)):
        name = canonical(key)
        assert is_known(name), key
        if name not in fields():
            assert find_rule(name).instead, key


def test_aliases_lead_to_keys_that_exist_and_to_no_other_alias():
    for name in ALIASES.values():
        assert canonical(name) == name
        assert is_known(name)
    for name in SECTION_ALIASES.values():
        assert any(key.startswith(f"{name}.") for key in (*fields(), *verl_defaults())), name


def test_no_alias_hides_a_field():
    assert not fields().keys() & ALIASES.keys()
    assert [key for key in fields() if canonical(key) != key] == []


def test_no_field_is_told_to_be_refused():
    for key in fields():
        covering = [rule for rule in RULES if rule.kind == "refused" and any(matches(p, key) for p in rule.keys)]
        assert covering == [], key


def test_fields_outside_our_own_section_are_names_of_verl():
    theirs = {*verl_defaults(), *ADDED_KEYS}
    assert {key for key in fields() if not key.startswith("agentlightning.")} <= theirs


def test_defaults_are_verls_but_for_the_table():
    listed = {difference.key: difference for difference in DIFFERENCES}
    assert all(verl_defaults()[key] == difference.verl for key, difference in listed.items())
    rest = [key for key in fields() if not key.startswith("agentlightning.") and key not in listed]
    for key, theirs in (defaults_of((key for key in rest if key in verl_defaults()), {}) | RECIPES).items():
        ours = fields()[key].get_default(call_default_factory=True)
        assert (list(ours) if isinstance(ours, tuple) else ours) == theirs, key
    assert {key for key in rest if key not in verl_defaults()} == RECIPES.keys()
    for key in ("data.seed", "trainer.logger", "trainer.device", "critic.model.path"):
        ours = fields()[key].get_default(call_default_factory=True)
        assert ours == listed[key].ours != listed[key].verl


def test_every_field_and_section_says_what_it_does():
    def models(model: type[BaseModel]) -> list[type[BaseModel]]:
        inner = [info.annotation for info in model.model_fields.values()]
        return [
            model,
            *(m for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel) for m in models(kind)),
        ]

    for model in models(VerlConfig):
        assert model.__doc__, model
        for name, info in model.model_fields.items():
            assert info.description, f"{model.__name__}.{name}"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("data.train_batchsize", "data.train_batch_size"),
        ("trainer.train_batch_size", "data.train_batch_size"),
        ("actor.optim.lr", "actor_rollout_ref.actor.optim.lr"),
        ("model.path", "actor_rollout_ref.model.path"),
        ("main_llm.temperature", "actor_rollout_ref.rollout.temperature"),
        ("algorithm.adv_estimater", "algorithm.adv_estimator"),
        ("actor_rollout_ref.actor.optim.learning_rate_warmup_steps", "actor_rollout_ref.actor.optim.lr_warmup_steps"),
    ],
)
def test_nearest_name(wrong: str, right: str):
    assert not is_known(wrong)
    assert nearest(wrong)[0] == right


def test_a_long_section_alone_makes_no_likeness():
    assert {name.rpartition(".")[2] for name in nearest("actor_rollout_ref.rollout.temprature")} == {"temperature"}


def test_verl_takes_any_name_below_some_keys_only():
    assert is_known("ray_kwargs.ray_init.num_gpus")
    assert is_known("actor_rollout_ref.model.override_config.attn_implementation")
    assert is_known("reward.reward_kwargs.overlong_buffer_cfg.enable")
    assert not is_known("data.gen_batch_size.more")
    assert not is_known("data.anything")


def test_every_field_with_a_choice_is_read_somewhere():
    package = Path(agentlightning.__file__).parent
    sources = [path.read_text() for path in package.rglob("*.py") if package / "verl" / "config" not in path.parents]
    schema = package / "verl" / "config" / "schema"
    code = "\n".join([*sources, *((schema / name).read_text() for name in ("__init__.py", "model.py"))])
    handed_on_whole = {"algorithm.gamma", "algorithm.lam", "actor_rollout_ref.actor.clip_ratio"}  # to the formulas
    read_on_loading = {"agentlightning.strict"}
    for key, info in fields().items():
        one_value = get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1
        if not one_value and key not in handed_on_whole | read_on_loading:
            leaf = key.rpartition(".")[2]
            assert re.search(rf"[.\"]{leaf}\b", code), f"`{key}` is accepted, but nothing reads it"


def test_config_is_light():
    code = (
        "import sys; from agentlightning.verl import load_config; load_config({'main_llm.model': 'm'});"
        "print([m for m in ('torch', 'transformers', 'hydra', 'omegaconf', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
