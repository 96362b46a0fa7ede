"""Optimizers by name, and master weights for models in half precision."""

import sys
import types

import pytest
import torch

from agentlightning.learner.objectives import CrossEntropy
from agentlightning.learner.optimizer import OptimizerConfig, make_optimizer
from agentlightning.learner.schedule import Schedule
from agentlightning.types import ConfigError

from .conftest import make_model
from .helpers import make_learner, make_rows

DENSE = [
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
]


def parameters():
    return [torch.nn.Parameter(torch.ones(3, 2, dtype=torch.float64))]


@pytest.mark.parametrize("name", DENSE)
def test_optimizers_of_torch_step_by_their_name(name):
    (parameter,) = made = parameters()
    optimizer = make_optimizer(OptimizerConfig(lr=1e-2, optimizer=name), made)
    assert type(optimizer) is getattr(torch.optim, name)
    parameter.square().sum().backward()
    optimizer.step()
    assert (parameter < 1).all()


def test_settings_reach_the_optimizer_and_overrides_win():
    config = OptimizerConfig(lr=0.5, betas=(0.8, 0.9), weight_decay=0.3, override_optimizer_config={"eps": 1e-4})
    group = make_optimizer(config, parameters()).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (0.5, (0.8, 0.9), 0.3, 1e-4)
    config = OptimizerConfig(optimizer="SGD", override_optimizer_config={"momentum": 0.9, "weight_decay": 0.0})
    group = make_optimizer(config, parameters()).param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.0)
    assert "betas" not in group


def test_adamw_takes_the_step_of_its_paper(model):
    """arXiv 1711.05101, the first step: p <- p (1 - lr wd) - lr m / (sqrt(v) + eps) = p (1 - lr wd) - lr g / |g|."""
    learner = make_learner(model, optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.1, grad_clip=1e9))
    before = {name: p.detach().clone() for name, p in learner.parameters.items()}
    rows = make_rows()
    learner.update(rows, CrossEntropy())
    bias = "model.layers.0.self_attn.q_proj.bias"
    change = learner.parameters[bias].detach() - before[bias] * (1 - 1e-2 * 0.1)
    assert change.abs().tolist() == pytest.approx([1e-2] * len(change), rel=1e-3)


@pytest.mark.parametrize("name", ["Adamw", "LBFGS", "SparseAdam", "Optimizer", "lr_scheduler"])
def test_other_names_are_refused_with_the_possible_ones(name):
    with pytest.raises(ConfigError, match=rf"`optim.optimizer={name}`.*possible: ASGD, .*AdamW, .*SGD"):
        make_optimizer(OptimizerConfig(optimizer=name), parameters())


def test_an_argument_that_the_optimizer_lacks_is_refused():
    config = OptimizerConfig(override_optimizer_config={"momentum": 0.9})
    with pytest.raises(ConfigError, match="`momentum`, which `AdamW` does not take; it takes lr, betas"):
        make_optimizer(config, parameters())


@pytest.mark.parametrize("override", [{"eps": -1.0}, {"amsgrad": "yes", "foreach": True, "fused": True}])
def test_values_that_the_optimizer_refuses_are_one_error(override):
    with pytest.raises(ConfigError, match=r"`optim\.optimizer=AdamW` can't be made"):
        make_optimizer(OptimizerConfig(override_optimizer_config=override), parameters())


def test_muon_refuses_vectors_with_advice():
    with pytest.raises(ConfigError, match="use AdamW"):
        make_optimizer(OptimizerConfig(optimizer="Muon"), [torch.nn.Parameter(torch.ones(3))])


def test_a_model_with_nothing_to_train_is_refused(model):
    with pytest.raises(ConfigError, match="nothing to train"):
        make_learner(model.requires_grad_(False))


def test_modules_made_like_torch_optim_can_be_named(monkeypatch):
    module = types.ModuleType("other_optim")
    module.Plain = type("Plain", (torch.optim.SGD,), {})
    monkeypatch.setitem(sys.modules, "other_optim", module)
    config = OptimizerConfig(optimizer="Plain", optimizer_impl="other_optim", lr=0.25)
    assert type(make_optimizer(config, parameters())).__name__ == "Plain"
    with pytest.raises(ConfigError, match=r"`optim.optimizer_impl=no_such_module` can't be imported"):
        make_optimizer(OptimizerConfig(optimizer_impl="no_such_module"), parameters())


def half_learner(lr=1e-5):
    optimizer = OptimizerConfig(lr=lr, weight_decay=0.0)
    return make_learner(make_model().bfloat16(), optimizer=optimizer, schedule=Schedule(100))


def test_steps_too_small_for_bf16_add_up_in_the_master_weights():
    learner = half_learner()
    weight = dict(learner.model.named_parameters())["model.norm.weight"]  # all ones: the next bf16 is 1.0078
    assert weight.dtype == torch.bfloat16
    for _ in range(20):
        learner.update(make_rows(), CrossEntropy())
    assert (weight == 1).all()
    moved = (learner.masters["model.norm.weight"] - 1).abs()
    assert 1e-4 < moved.median() < 2.1e-4  # Adam moves a parameter by at most about the rate a step
    assert all(p.grad is None for p in learner.model.parameters())


def test_the_model_is_its_master_weights_rounded():
    learner = half_learner(lr=1e-2)
    for _ in range(3):
        learner.update(make_rows(), CrossEntropy())
    named = dict(learner.model.named_parameters())
    assert learner.masters.keys() == named.keys()
    for name, master in learner.masters.items():
        assert master.dtype == torch.float32
        assert torch.equal(master.bfloat16(), named[name])
    assert not all(torch.equal(m, m.bfloat16().float()) for m in learner.masters.values())


def test_weights_that_somebody_wrote_into_the_model_are_not_undone():
    learner = half_learner()
    weight = dict(learner.model.named_parameters())["model.norm.weight"]
    learner.update(make_rows(), CrossEntropy())
    with torch.no_grad():
        weight.fill_(3.0)
    learner.update(make_rows(), CrossEntropy())
    assert (weight == 3).all()
    assert ((learner.masters["model.norm.weight"] - 3).abs() < 1e-4).all()


def test_a_model_in_full_precision_has_no_copies(model):
    learner = make_learner(model)
    assert learner.masters == {}
    assert all(learner.parameters[name] is p for name, p in model.named_parameters())
