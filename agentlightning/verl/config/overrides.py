"""From what a user wrote to flat `{full name: value}`: mappings, and command-line words in Hydra's grammar.

Both ways give the same result for the same settings. Called by `compose`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from agentlightning.types import ConfigError

from .names import sections

ALIASES: Mapping[str, str] = {
    "main_llm.model": "actor_rollout_ref.model.path",
    "rollout_batch_size": "data.gen_batch_size",
    "train_batch_size": "data.train_batch_size",
    "actor_rollout_ref.actor.optim.clip_grad": "actor_rollout_ref.actor.grad_clip",
    "actor_rollout_ref.actor.optim.warmup_style": "actor_rollout_ref.actor.optim.lr_scheduler_type",
    "actor_rollout_ref.actor.dpo_beta": "algorithm.dpo_beta",
    "actor_rollout_ref.actor.policy_loss.tau_pos": "actor_rollout_ref.actor.tau_pos",
    "actor_rollout_ref.actor.policy_loss.tau_neg": "actor_rollout_ref.actor.tau_neg",
    "critic.optim.clip_grad": "critic.grad_clip",
    "critic.optim.warmup_style": "critic.optim.lr_scheduler_type",
    "data.tokenizer": "actor_rollout_ref.model.tokenizer_path",
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.num_workers": "reward.num_workers",
    "reward_model.enable": "reward.reward_model.enable",
    "reward_model.model.path": "reward.reward_model.model_path",
    "trainer.val_generations_to_log_to_wandb": "trainer.log_val_generations",
}
"""Other spellings of a key, and the key."""

SECTION_ALIASES: Mapping[str, str] = {
    "reward_model.overlong_buffer": "reward.reward_kwargs.overlong_buffer_cfg",
    "reward_model.reward_kwargs": "reward.reward_kwargs",
    "custom_reward_function": "reward.custom_reward_function",
    "sandbox_fusion": "reward.sandbox_fusion",
    "actor_rollout_ref.actor.policy_loss.rollout_correction": "algorithm.rollout_correction",
}
"""Other spellings of a section, and the section."""

POLICIES = "agentlightning.policies"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one source set: values by full name, and how the user spelt each name."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    spelling: dict[str, str] = field(default_factory=dict[str, str])


def flatten(overrides: Mapping[str, Any] | Sequence[str] | None) -> Settings:
    """The settings by full name, aliases replaced.

    Args:
        overrides: A nested mapping (dots in its keys are allowed), or words such as `data.train_batch_size=8`,
            `trainer.logger=[console,file]`, `data.seed=null`, `+ray_kwargs.ray_init.num_cpus=4`.

    Raises:
        ConfigError: a word is not in the grammar, a section is given a value, or a key is given twice.
    """
    if overrides is None:
        return Settings()
    if isinstance(overrides, str):
        raise ConfigError(f"overrides are a list of words, not one string: write [{overrides!r}]")
    mapping = isinstance(overrides, Mapping)
    words: Any = overrides  # whatever the caller's types say
    if not mapping and not (
        isinstance(words, list | tuple) and all(isinstance(w, str) for w in cast("list[Any]", words))
    ):
        raise ConfigError(f"a configuration is a mapping, or a list of words `key=value`, not {overrides!r:.80}")
    pairs = (
        _pairs(_plain(overrides), "")
        if mapping
        else (p for key, value in _parse(overrides) for p in _leaves(key, value))
    )
    result = Settings()
    for written, value in pairs:
        _add(result, written, value)
    return result


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Command-line words as flat settings by full name, to go over a mapping of the same kind.

    Raises:
        ConfigError: see `flatten`.
    """
    return flatten(words).values


def canonical(written: str) -> str:
    """The name of a key, whichever spelling it is given by."""
    if written.startswith(f"{POLICIES}.") and written.count(".") > 2:  # agentlightning.policies.NAME.KEY
        policy, key = split_policy(written)
        return f"{POLICIES}.{policy}.{canonical(key)}"
    if written in ALIASES:
        return ALIASES[written]
    for old, new in SECTION_ALIASES.items():
        if written.startswith(f"{old}."):
            return new + written.removeprefix(old)
    return written


def split_policy(key: str) -> tuple[str, str]:
    """`agentlightning.policies.NAME.KEY` as (NAME, KEY)."""
    policy, _, below = key.removeprefix(f"{POLICIES}.").partition(".")
    return policy, below


def _add(settings: Settings, written: str, value: Any) -> None:
    key = canonical(written)
    before = settings.spelling.get(key)
    if key != written and value is None:
        return  # an old spelling left at its default
    if before == written:
        raise ConfigError(f"`{written}` is given twice ({settings.values[key]!r} and {value!r}); keep one")
    if before is not None and settings.values[key] != value:
        raise ConfigError(
            f"`{before}` ({settings.values[key]!r}) and `{written}` ({value!r}) are two names of `{key}`; keep one"
        )
    settings.values[key], settings.spelling[key] = value, written


def _plain(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """A DictConfig of OmegaConf as plain containers, interpolations kept."""
    if not type(overrides).__module__.startswith("omegaconf."):
        return overrides
    from omegaconf import OmegaConf

    return cast("Mapping[str, Any]", OmegaConf.to_container(cast("Any", overrides), resolve=False))


def _pairs(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if not isinstance(name, str):
            raise ConfigError(f"config keys are strings, got {name!r} in `{prefix.rstrip('.') or 'the top level'}`")
        yield from _leaves(prefix + name, value)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and not value and key.startswith(f"{POLICIES}."):
        yield key, value  # a policy without settings of its own
    elif isinstance(value, Mapping):
        yield from _pairs(cast("Mapping[Any, Any]", value), f"{key}.")
    elif key in sections():
        raise ConfigError(f"`{key}` is a section and can't be set to {value!r}; set the keys in it, `{key}.<name>`")
    else:
        yield key, value


def _parse(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Hydra's parser, so that quoting, lists and numbers mean what they mean to verl."""
    try:
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException
    except ImportError as error:
        raise ConfigError("command-line overrides need Hydra: pip install 'agentlightning[verl]'") from error
    parser = OverridesParser.create()
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            name, _, value = word.partition("=")
            mend = f"put the value in quotes: {name}='\"{value}\"'" if value else "write it as `key=value`"
            raise ConfigError(f"`{word}` can't be read as an override; {mend}") from error
        if override.package is not None:
            raise ConfigError(f"`{word}`: `@` has no meaning here; write `key=value`")
        if override.is_delete():
            raise ConfigError(f"`{word}`: keys can't be deleted; set `{override.key_or_group}=null` instead")
        if override.is_sweep_override():
            raise ConfigError(f"`{word}` is a sweep; put a list in brackets or the value in quotes")
        value = override.value()
        if (
            override.key_or_group.endswith("_threshold")
            and isinstance(value, int | float)
            and "_" in word.partition("=")[2]
        ):
            raise ConfigError(
                f"`{word}` is read as the number {value}; put the two bounds in quotes, as in \"'0.5_2'\""
            )
        yield override.key_or_group, value
