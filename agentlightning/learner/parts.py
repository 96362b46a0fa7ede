"""What one part of a run writes into its folder of a checkpoint, and how it comes back exactly.

    huggingface/            weights, config, tokenizer; of a LoRA policy: base and adapter merged, for others to load
    lora_adapter/           the adapter alone, in peft's layout; what a LoRA policy is resumed from
    value_head.safetensors  a critic's head
    weights.safetensors     what a reference took over from its policy
    optim.safetensors       the optimizer's tensors by `parameter/slot`; fp32 copies of weights in half precision are
                            `parameter/master`
    extra_state.json        place in the schedule, the optimizer's name and its plain numbers

Called by `checkpoint`, which makes the whole atomic; calls `lora` and `inference.loading`. Everything is written into
the parameters in place, because an engine may hold on to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agentlightning.inference.loading import save_model, stored_weights
from agentlightning.types import ModelError

from .layout import ADAPTER, HEAD, WEIGHTS
from .learner import Learner
from .lora import frozen_names, is_lora, merge, restore_adapter, save_adapter
from .reference import Reference
from .value import Critic

SYNCED = "weights.safetensors"
_OPTIMIZER, _EXTRA, _MASTER = "optim.safetensors", "extra_state.json", "master"


class Part(Protocol):
    """Something with a folder of its own in a checkpoint."""

    def save(self, folder: Path) -> None:
        """Write everything into `folder`, which exists and is empty."""
        ...

    def load(self, folder: Path) -> None:
        """Take everything from `folder`.

        Raises:
            ModelError: it is of another model.
            OSError, KeyError, TypeError, ValueError, SafetensorError: it is damaged.
        """
        ...


class LearnerPart:
    """A policy and its optimizer; with an adapter if its model has one.

    Args:
        learner: Who trains it.
        tokenizer: Saved beside the weights.
    """

    def __init__(self, learner: Learner, tokenizer: Any) -> None:
        self.learner = learner
        self.tokenizer = tokenizer

    def save(self, folder: Path) -> None:
        model = self.learner.model
        if is_lora(model):
            save_adapter(model, folder / ADAPTER)
            model = merge(model)
        save_model(model, self.tokenizer, folder / WEIGHTS)
        _save_training(self.learner, folder)

    def load(self, folder: Path) -> None:
        _check_kind(self.learner.model, folder)
        if is_lora(self.learner.model):
            _check_base(self.learner.model, folder / WEIGHTS)
            restore_adapter(self.learner.model, folder / ADAPTER)
        else:
            _copy_into(self.learner.model, stored_weights(self.learner.model, folder / WEIGHTS), folder / WEIGHTS)
        _load_training(self.learner, folder)


class CriticPart:
    """A critic: its trunk, or the adapter that makes the trunk out of a shared base, its head and its optimizer.

    Args:
        critic: Who trains it.
        tokenizer: Saved beside the trunk's weights.
    """

    def __init__(self, critic: Critic, tokenizer: Any) -> None:
        self.critic = critic
        self.tokenizer = tokenizer

    def save(self, folder: Path) -> None:
        if is_lora(self.critic.model):
            save_adapter(self.critic.model, folder / ADAPTER)
        else:
            save_model(self.critic.model, self.tokenizer, folder / WEIGHTS)
        head = {name: tensor.detach().contiguous() for name, tensor in self.critic.head.state_dict().items()}
        save_file(head, folder / HEAD)
        _save_training(self.critic, folder)

    def load(self, folder: Path) -> None:
        _check_kind(self.critic.model, folder)
        if is_lora(self.critic.model):
            restore_adapter(self.critic.model, folder / ADAPTER)
        else:
            _copy_into(self.critic.model, stored_weights(self.critic.model, folder / WEIGHTS), folder / WEIGHTS)
        _copy_into(self.critic.head, load_file(folder / HEAD), folder / HEAD)
        _load_training(self.critic, folder)


class ReferencePart:
    """A frozen reference: the weights that `sync` has changed, none while it is still what it began as."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def save(self, folder: Path) -> None:
        state = {name: tensor.contiguous() for name, tensor in self.reference.state().items()}
        save_file(state, folder / SYNCED)

    def load(self, folder: Path) -> None:
        self.reference.load_state(load_file(folder / SYNCED))


def _check_kind(model: Any, folder: Path) -> None:
    if (folder / ADAPTER).is_dir() != is_lora(model):
        kinds = ("trains a LoRA adapter", "trains all weights")
        ours, theirs = kinds if is_lora(model) else reversed(kinds)
        raise ModelError(
            f"the run that wrote `{folder}` {theirs}, this one {ours}; set `model.lora_rank` as it was there"
        )


@torch.no_grad()
def _copy_into(module: nn.Module, theirs: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors into those of `module`, which must have the same names and shapes."""
    ours = module.state_dict()
    for name in sorted({*ours, *theirs}):
        here, there = (_shape(tensors.get(name)) for tensors in (ours, theirs))
        if here != there:
            raise ModelError(
                f"the weights in `{path}` are of another model: `{name}` is {there} there, {here} here; give the model "
                "that the run was begun with"
            )
    for name, tensor in theirs.items():
        ours[name].copy_(tensor)


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))


def _check_base(model: Any, folder: Path) -> None:
    """The adapter says nothing of its base. What merging leaves alone must be as it was saved."""
    ours = dict(model.named_parameters())
    wanted = set(frozen_names(model))
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in wanted.intersection(tensors.keys()):
                if not _same(tensors.get_tensor(name), ours[name].detach().cpu()):
                    raise ModelError(
                        f"the adapter in `{folder.parent}` belongs to another base: `{name}` differs; give the model "
                        "that the run was begun with"
                    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal as far as the narrower of two precisions tells."""
    dtype = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(one.to(dtype), other.to(dtype))


def _save_training(learner: Learner, folder: Path) -> None:
    slots: dict[str, Any] = {f"{name}/{_MASTER}": tensor for name, tensor in learner.masters.items()}
    for name, parameter in learner.parameters.items():
        for slot, value in learner.optimizer.state.get(parameter, {}).items():
            slots[f"{name}/{slot}"] = value
    tensors = {key: value.detach().contiguous() for key, value in slots.items() if isinstance(value, Tensor)}
    save_file(tensors, folder / _OPTIMIZER)
    extra = {
        "schedule_steps": learner.steps,
        "optimizer": type(learner.optimizer).__name__,
        "optimizer_values": {key: value for key, value in slots.items() if key not in tensors},
    }
    (folder / _EXTRA).write_bytes(orjson.dumps(extra))


def _load_training(learner: Learner, folder: Path) -> None:
    extra = orjson.loads((folder / _EXTRA).read_bytes())
    here = type(learner.optimizer).__name__
    if extra["optimizer"] != here:
        raise ModelError(
            f"`{folder}` has the state of optimizer {extra['optimizer']}, this run has {here}; set the same"
        )
    slots = {**load_file(folder / _OPTIMIZER, device=str(learner.device)), **extra["optimizer_values"]}
    learner.optimizer.state.clear()
    for key, value in slots.items():
        name, _, slot = key.rpartition("/")
        if name not in learner.parameters:
            raise ModelError(f"`{folder}` has the optimizer's state of `{name}`, which this run does not train")
        if slot == _MASTER:
            if name in learner.masters:  # not in a run that goes on in fp32
                learner.masters[name].copy_(value)
        else:
            learner.optimizer.state[learner.parameters[name]][slot] = value
    learner.steps = int(extra["schedule_steps"])
