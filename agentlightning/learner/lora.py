"""LoRA adapters on a model, and module trees that share one base.

An adapter is injected in place by peft: the model keeps its class, `config` and `get_decoder()`, so the native engine
and the learner go on with it as they are. The base is frozen, its weights get no gradients, and a `shared_copy` taken
before `add_lora` is the base itself: the reference of a LoRA policy, or the trunk of a critic, at no cost.

Called by `verl/` (which model to train), `parts` (checkpoints) and whoever sends weights to a server elsewhere;
calls peft. LoRA: arXiv 2106.09685; `alpha / rank` scales the adapter's product, as in peft and verl.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agentlightning.types import ConfigError, ModelError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""peft's file names."""
_NAME = "default"
"""peft's name for the adapter within a module tree, which holds one."""
_PREFIX = "base_model.model."
"""What peft's own wrapper puts before the names in its files."""


def shared_copy(model: Any) -> Any:
    """A second module tree on the very parameters and buffers of `model`; it takes no memory for weights.

    What is put into one tree, such as an adapter, is not in the other. What is written into a shared parameter, its
    `requires_grad` too, is seen by both.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def is_lora(model: Any) -> bool:
    """Whether `model` has an adapter."""
    return bool(getattr(model, "peft_config", None))


def add_lora(
    model: Any,
    *,
    rank: int,
    alpha: float,
    target_modules: str | Sequence[str] = "all-linear",
    exclude_modules: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Any:
    """Put an adapter into `model` that starts at zero, and freeze everything else.

    Args:
        model: A causal LM from `load_model`, without an adapter.
        rank: Rows of A (rank, in), columns of B (out, rank): `y = W x + alpha / rank * B A x`.
        alpha: See `rank`.
        target_modules: `all-linear` (all but the output layer), names or ends of names such as `q_proj`, or one
            regular expression on whole names.
        exclude_modules: The same, left out.
        seed: Decides A; B is zero. The global random state is left as it was.

    Returns:
        `model`. Where it is in half precision the adapter is in float32.

    Raises:
        ConfigError: no module matches, or a value is out of range.
        ModelError: there is an adapter already, or the embeddings or the output layer would get one.
    """
    if rank < 1 or alpha <= 0:
        raise ConfigError(f"`lora_rank` and `lora_alpha` must be above 0, got {rank} and {alpha:g}")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft annotates int and computes with any number
        target_modules=_names(target_modules),
        exclude_modules=None if exclude_modules is None else _names(exclude_modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.config.name_or_path,
    )
    try:
        return _inject(model, config, seed)
    except ModelError:
        raise
    except ValueError as error:
        raise ConfigError(f"`target_modules` {config.target_modules!r} can't be adapted: {error}") from error


def load_adapter(model: Any, path: str | Path) -> Any:
    """Put the adapter that peft or `save_adapter` wrote to `path` into `model`, to be trained on.

    Returns:
        `model`, with all but the adapter frozen. Dropout is off: the learner must compute what the engine sampled.

    Raises:
        ModelError: no adapter there, of another model, or more than LoRA matrices.
    """
    config = _stored_config(Path(path))
    config.lora_dropout, config.inference_mode = 0.0, False
    with _one_line(Path(path)):
        _inject(model, config, seed=0)
    restore_adapter(model, path)
    return model


def restore_adapter(model: Any, path: str | Path) -> None:
    """Write the adapter at `path` into the one that `model` has, in place.

    Raises:
        ModelError: no adapter there, or one with another rank, alpha or other targets.
    """
    stored, present = _stored_config(Path(path)), model.peft_config[_NAME]
    for field in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"):
        theirs, ours = getattr(stored, field), getattr(present, field)
        if theirs != ours:
            raise ModelError(f"the adapter in `{path}` has `{field}` {theirs}, this run {ours}; give the run the same")
    with _one_line(Path(path)):
        tensors = load_file(Path(path) / ADAPTER_WEIGHTS)
        wanted = set(_adapter_tensors(model))
        if set(tensors) != wanted:
            odd = sorted(wanted.symmetric_difference(tensors))
            raise ModelError(f"the adapter in `{path}` has other targets than this model's, such as `{odd[0]}`")
        set_peft_model_state_dict(model, tensors, adapter_name=_NAME)


def save_adapter(model: Any, path: str | Path) -> None:
    """Write the adapter of `model` in peft's layout: `PeftModel.from_pretrained(base, path)` loads it."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(model.peft_config[_NAME])
    config.inference_mode = True
    for field in ("target_modules", "exclude_modules"):
        value = getattr(config, field)
        setattr(config, field, sorted(value) if isinstance(value, set) else value)
    config.save_pretrained(str(folder))
    tensors = {name: tensor.detach().contiguous() for name, tensor in _adapter_tensors(model).items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def merge(model: Any) -> Any:
    """A plain model that computes what `model` and its adapter compute; `model` stays as it is.

    Matrices with an adapter are new, in the base's precision; all other tensors are shared.
    """
    plain = shared_copy(model)
    for name, wrappers in _wrapped(plain):
        own: Any = copy.deepcopy(wrappers[-1].get_base_layer())  # peft merges in place, and the base is not ours alone
        wrappers[-1].base_layer = own
        for wrapper in wrappers:
            wrapper.merge()
        plain.set_submodule(name, own)
    plain.__dict__.pop("peft_config", None)
    return plain


def merged_state_dict(model: Any) -> dict[str, Tensor]:
    """The tensors of `merge(model)` by the names that the base has."""
    return merge(model).state_dict()


def frozen_names(model: Any) -> list[str]:
    """Names of the parameters that merging leaves as they are: not the adapter's, nor what it adapts."""
    adapted = tuple(f"{name}." for name, _ in _wrapped(model))
    return [name for name, _ in model.named_parameters() if not name.startswith(adapted)]


def _wrapped(model: Any) -> list[tuple[str, list[Any]]]:
    """Each adapted module's name and peft's layers around it, outermost first (around fused experts there are two)."""
    found: list[tuple[str, list[Any]]] = []
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and not name.endswith(".base_layer"):
            wrappers: list[Any] = [module]
            while isinstance(wrappers[-1].base_layer, BaseTunerLayer):
                wrappers.append(wrappers[-1].base_layer)
            found.append((name, wrappers))
    return found


def _inject(model: Any, config: LoraConfig, seed: int) -> Any:
    if is_lora(model):
        raise ModelError("the model has an adapter already; take a `shared_copy` of the base before adding one")
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=_NAME)
    for module in (model.get_output_embeddings(), model.get_input_embeddings()):
        if isinstance(module, BaseTunerLayer):
            raise ModelError(
                "`target_modules` names the embeddings or the output layer, which take no adapter here; name linear "
                "layers of the decoder, or take `all-linear`"
            )
    cast_adapter_dtype(model, _NAME)  # an optimizer's small steps would be lost in half precision
    return model.train(model.training)


def _adapter_tensors(model: Any) -> dict[str, Tensor]:
    """The adapter by the names of peft's files."""
    found = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    return {f"{_PREFIX}{name}": tensor for name, tensor in found.items()}


def _stored_config(path: Path) -> LoraConfig:
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (path / name).is_file():
            raise ModelError(f"`{path}` holds no `{name}`: give the folder of an adapter that peft wrote")
    with _one_line(path):
        config: Any = LoraConfig.from_pretrained(str(path))
        if not isinstance(config, LoraConfig):
            raise ModelError(f"the adapter in `{path}` is of kind {config.peft_type.value}; only LoRA can be trained")
    beyond = ("modules_to_save", "trainable_token_indices", "layer_replication")
    for field in beyond:
        if getattr(config, field, None):
            raise ModelError(f"the adapter in `{path}` has `{field}`; only LoRA matrices can be trained")
    if config.init_lora_weights not in (True, False, "gaussian", "orthogonal"):
        raise ModelError(
            f"the adapter in `{path}` has `init_lora_weights` {config.init_lora_weights!r}, which changes the base; "
            "convert it to plain LoRA with peft"
        )
    return config


def _names(modules: str | Sequence[str]) -> str | list[str]:
    return modules if isinstance(modules, str) else list(modules)


@contextmanager
def _one_line(path: Path) -> Generator[None]:
    """Turn what peft, torch and safetensors raise over a bad adapter into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise
        lines = str(error).strip().splitlines()
        reason = (lines[1:] or lines or [type(error).__name__])[0].strip()
        raise ModelError(f"the adapter in `{path}` does not fit this model or is damaged: {reason}") from error
