"""Losses that see the whole mini-batch have one gradient, however it is split."""

import dataclasses

import numpy as np
import pytest
import torch

from agentlightning.learner import logprob
from agentlightning.learner.objectives import SPPO, OnlineDPO, Policy

from .helpers import alone, alone_logprobs, assert_close, gradients, make_rows, wanted_gradients

CONFIG = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.28,
    "policy_loss": {
        "kl_cov_ratio": 0.2,
        "ppo_kl_coef": 0.5,
        "clip_cov_ratio": 0.2,
        "clip_cov_lb": 0.0,
        "clip_cov_ub": 100.0,
    },
    "seed": 7,
}
PAIRS = np.array([[0, 1], [5, 2], [3, 4]])


@dataclasses.dataclass(frozen=True)
class Entangled:
    """A loss in which every token's gradient depends on all outputs and entropies of the mini-batch."""

    temperature: float = 0.8
    needs_entropy: bool = True
    local: bool = False

    def __call__(self, tokens, outputs, entropy):
        total = torch.zeros(1 + int(tokens.sequence_N.max()), dtype=outputs.dtype)
        total = total.index_add(0, tokens.sequence_N, outputs * tokens.columns["weights"])
        parts = {"actor/one": torch.logsumexp(total, 0), "actor/two": total.mean() * entropy.square().mean().sqrt()}
        return parts, {"actor/mean_output": outputs.detach().sum()}


def entangled(model, rows):
    """The same from rows run alone, by loops."""
    totals, entropies, outputs = [], [], []
    for row in rows:
        weights = row.columns["weights"].tolist()
        logprobs = alone_logprobs(model, row, 0.8)
        outputs += logprobs.tolist()
        totals.append(sum(w * value for w, value in zip(weights, logprobs, strict=True)))
        entropies += [-(lp.exp() * lp).sum() for lp in alone(model, row, 0.8)]
    one = torch.log(sum(total.exp() for total in totals))
    mean_square = sum(h * h for h in entropies) / len(entropies)
    return one + sum(totals) / len(totals) * mean_square.sqrt(), sum(outputs) / len(outputs)


def split(monkeypatch, budget, chunk):
    monkeypatch.setattr(logprob, "CPU_CHUNK", chunk)
    return {"token_budget": budget}


SPLITS = [(1000, 512), (1000, 3), (25, 512), (1, 2)]
"""One piece; one micro-batch of several chunks; several micro-batches; both."""


@pytest.mark.parametrize(("budget", "chunk"), SPLITS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_entangled_loss_equals_rows_run_alone(model, monkeypatch, budget, chunk, checkpointing):
    rows = make_rows(n=7)
    loss, mean_output = entangled(model, rows)
    changes = split(monkeypatch, budget, chunk)
    got, metrics = gradients(model, rows, Entangled(), gradient_checkpointing=checkpointing, **changes)
    assert metrics["actor/loss"] == pytest.approx(loss.item(), rel=1e-9)
    assert metrics["actor/mean_output"] == pytest.approx(mean_output, rel=1e-9)
    assert_close(got, wanted_gradients(model, loss))


@pytest.mark.parametrize(("budget", "chunk"), SPLITS[1:])
@pytest.mark.parametrize(
    "objective",
    [
        Policy(loss_mode="gspo", config=CONFIG, entropy_coeff=0.1),
        Policy(loss_mode="kl_cov", config=CONFIG, temperature=0.9),
        Policy(loss_mode="clip_cov", config=CONFIG, kl_loss_coef=0.2),
        Policy(loss_mode="geo_mean", config=CONFIG),
        OnlineDPO(pairs=PAIRS, beta=0.5),
        SPPO(entropy_coeff=0.1),
    ],
    ids=["gspo", "kl_cov", "clip_cov", "geo_mean", "dpo", "sppo"],
)
def test_losses_of_the_whole_mini_batch_do_not_depend_on_its_split(model, monkeypatch, objective, budget, chunk):
    assert not objective.local
    rows = make_rows(n=6)
    # Two rows of one rollout, in different places of the mini-batch.
    rows[4] = dataclasses.replace(rows[4], sequence=1)
    rows[3] = dataclasses.replace(rows[3], sequence=4)
    rows.append(dataclasses.replace(make_rows(seed=5, n=1)[0], sequence=3))
    whole, metrics = gradients(model, rows, objective, token_budget=1000)
    changes = split(monkeypatch, budget, chunk)
    got, split_metrics = gradients(model, rows, objective, **changes)
    assert any(gradient.abs().max() > 1e-6 for gradient in whole.values())
    assert_close(got, whole)
    assert split_metrics == pytest.approx(metrics, rel=1e-8)


def test_dpo_has_the_gradient_of_pairs_run_alone(model):
    rows = make_rows(n=6)
    loss = 0.0
    for chosen, rejected in PAIRS.tolist():
        margin = 0.0
        for number, sign in ((chosen, 1.0), (rejected, -1.0)):
            reference = torch.from_numpy(rows[number].columns["ref_logprobs"]).double()
            margin = margin + sign * (alone_logprobs(model, rows[number]) - reference).sum()
        loss = loss - torch.log(torch.sigmoid(0.5 * margin)) / len(PAIRS)
    got, metrics = gradients(model, rows, OnlineDPO(pairs=PAIRS, beta=0.5), token_budget=20)
    assert metrics["actor/loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert_close(got, wanted_gradients(model, loss), rtol=1e-5, atol=1e-8)


def test_one_micro_batch_runs_the_decoder_once(model, monkeypatch):
    monkeypatch.setattr(logprob, "CPU_CHUNK", 3)
    calls = []
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    gradients(model, make_rows(n=6), Entangled(), token_budget=1000)
    assert len(calls) == 1


class Constant:
    """A loss that no output reaches, such as preference pairs that all tie."""

    temperature, needs_entropy = 1.0, False

    def __init__(self, local):
        self.local = local

    def __call__(self, tokens, outputs, entropy):
        return {"actor/loss_part": torch.tensor(2.0)}, {}


@pytest.mark.parametrize("local", [True, False])
def test_a_loss_that_no_output_reaches_moves_nothing(model, local):
    got, metrics = gradients(model, make_rows(), Constant(local), token_budget=1000 if local else 1)
    assert metrics["actor/grad_norm"] == 0.0
    assert metrics["actor/loss"] == 2.0
    assert not any(gradient.any() for gradient in got.values())
