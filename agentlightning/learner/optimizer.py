"""The optimizer of a learner: any of `torch.optim`, with fp32 master weights where the model is in half precision."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from agentlightning.types import ConfigError

_UNFIT = {"Optimizer", "LBFGS", "SparseAdam"}
"""Not for a training step: the base class, one that needs a closure, one for sparse gradients."""


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """An optimizer and what surrounds it; names and defaults as verl's `optim` sections.

    An optimizer that knows no `betas` or `weight_decay` (such as SGD the first) is made without.
    """

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    """Largest norm of the gradient over all parameters; larger ones are scaled down to it."""
    optimizer: str = "AdamW"
    """A class of `optimizer_impl`."""
    optimizer_impl: str = "torch.optim"
    """A module of optimizers: `torch.optim`, or an installed one that is made like it, such as `bitsandbytes.optim`."""
    override_optimizer_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of the class, such as `{"eps": 1e-6}`; they win over those above."""


def make_optimizer(config: OptimizerConfig, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """The optimizer that `config` names, over `parameters`.

    Raises:
        ConfigError: there is no such module, class or argument, it refuses the parameters, or there are none.
    """
    if not parameters:
        raise ConfigError("nothing to train: no parameter of the model has `requires_grad`; add an adapter or unfreeze")
    cls: Any = _optimizer_class(config)
    known = inspect.signature(cls).parameters
    ours = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    arguments = {name: value for name, value in ours.items() if name in known}
    if "fused" in known and not {"foreach", "capturable", "differentiable"} & config.override_optimizer_config.keys():
        arguments["fused"] = True
    unknown = [name for name in config.override_optimizer_config if name not in known]
    if unknown:
        raise ConfigError(
            f"`override_optimizer_config` has `{unknown[0]}`, which `{config.optimizer}` does not take; "
            f"it takes {', '.join(name for name in known if name != 'params')}"
        )
    try:
        return cls(parameters, **{**arguments, **config.override_optimizer_config})
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"`optim.optimizer={config.optimizer}` can't be made: {error}; use AdamW") from error


def _optimizer_class(config: OptimizerConfig) -> type[torch.optim.Optimizer]:
    try:
        module = importlib.import_module(config.optimizer_impl)
    except ImportError as error:
        raise ConfigError(
            f"`optim.optimizer_impl={config.optimizer_impl}` can't be imported ({error}); "
            "install its package or use `torch.optim`"
        ) from error
    names = [name for name, value in vars(module).items() if _is_fit(name, value)]
    if config.optimizer not in names:
        raise ConfigError(
            f"`optim.optimizer={config.optimizer}` is no optimizer of `{config.optimizer_impl}` for a training step; "
            f"possible: {', '.join(sorted(names))}"
        )
    return getattr(module, config.optimizer)


def _is_fit(name: str, value: object) -> bool:
    return isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and name not in _UNFIT


class Masters:
    """What the optimizer steps: parameters in fp32 or better themselves, fp32 copies of those in half precision.

    In bf16 a step of less than 1/256 of a weight is lost to rounding; the copies sum such steps up.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        self._half = {name: p for name, p in parameters.items() if p.dtype in (torch.bfloat16, torch.float16)}
        self.copies = {name: p.detach().float() for name, p in self._half.items()}
        """(shape of the parameter) by name; none where the model is in fp32 or better. Checkpoints keep them."""
        self.stepped: dict[str, Tensor] = {name: self.copies.get(name, p) for name, p in parameters.items()}
        """All that is stepped, by name."""

    @torch.no_grad()
    def collect(self) -> None:
        """Take the gradients of the model, and weights that somebody wrote into it since `publish`."""
        for name, parameter in self._half.items():
            copy = self.copies[name]
            torch.where(copy.to(parameter.dtype) == parameter, copy, parameter.float(), out=copy)
            copy.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the copies into the model."""
        for name, parameter in self._half.items():
            parameter.copy_(self.copies[name])
