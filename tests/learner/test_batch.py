"""Micro-batches: what is planned, what is packed, and that shared beginnings change no gradient."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.learner import batch as batches
from agentlightning.learner.batch import Row, hidden_states, pack, plan, tokens_of
from agentlightning.learner.forward import Recomputation
from agentlightning.learner.objectives import CrossEntropy
from agentlightning.learner.prefix import merge

from . import helpers
from .conftest import make_model

CPU = torch.device("cpu")
MODELS = {
    "grouped": {},
    "all heads": {"num_key_value_heads": 4},
    "window": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
}


def row(tokens, trained=None, sequence=0):
    """A row whose `trained` places are trained, by default all but the first."""
    mask = np.zeros(len(tokens), np.bool_)
    mask[list(range(1, len(tokens)) if trained is None else trained)] = True
    weights = np.random.default_rng(len(tokens)).random(int(mask.sum())).astype(np.float32)
    return Row(np.array(tokens, np.int32), mask, {"weights": weights}, sequence)


ROW = st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=10), st.sets(st.integers(1, 9), max_size=9)).map(
    lambda pair: row(pair[0], sorted(at for at in pair[1] if at < len(pair[0])))
)
ROWS = st.lists(ROW, min_size=1, max_size=8)


def used(rows):
    """The token sequences that must be computed: up to the last one that predicts a trained token."""
    return [tuple(r.token_ids[: np.flatnonzero(r.mask)[-1] if r.mask.any() else 1].tolist()) for r in rows]


def distinct(rows):
    return len({sequence[: n + 1] for sequence in used(rows) for n in range(len(sequence))})


def loss(model, batch):
    """A sum over all logits of each predicting state with weights of their own, so that no term hides another."""
    states = hidden_states(model, batch)[batch.predict_N]
    logprobs = torch.log_softmax(model.lm_head(states), -1)
    picked = logprobs.gather(1, batch.targets_N[:, None])[:, 0]
    return (batch.columns["weights"].to(picked.dtype) * (picked + 0.1 * picked.exp())).sum()


def alone(model, rows):
    """The same from an ordinary forward of each row, without our attention."""
    total = 0.0
    for r in rows:
        ids = torch.from_numpy(r.token_ids.astype(np.int64))
        at = np.flatnonzero(r.mask)
        logprobs = torch.log_softmax(model(ids[None], use_cache=False).logits[0][at - 1], -1)
        picked = logprobs.gather(1, ids[at][:, None])[:, 0]
        total = total + (torch.from_numpy(r.columns["weights"]).to(picked) * (picked + 0.1 * picked.exp())).sum()
    return total


def gradients(model, value):
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)}


def assert_equal(found, wanted, relative):
    """Each gradient to `relative` of its largest number."""
    assert max(float(g.abs().max()) for g in wanted.values()) > 0
    for name, gradient in wanted.items():
        gap = float((found[name] - gradient).abs().max())
        assert gap <= relative * max(float(gradient.abs().max()), 1e-3), f"{name}: {gap:g}"


def group(seed=0, prompts=3, samples=4, response=7):
    """Samples of prompts that share a system prompt; some samples begin alike, branch again, or are equal."""
    generator = np.random.default_rng(seed)
    system = generator.integers(0, 50, 5).tolist()
    rows = []
    for _ in range(prompts):
        prompt = system + generator.integers(0, 50, int(generator.integers(1, 9))).tolist()
        answers = [generator.integers(0, 50, response).tolist() for _ in range(samples)]
        answers[1][:3] = answers[0][:3]
        answers[-1] = answers[0]
        rows += [
            row(prompt + a, range(len(prompt), len(prompt) + len(a)), len(rows) + i) for i, a in enumerate(answers)
        ]
    return rows


@pytest.fixture
def share_all(monkeypatch):
    """Share whatever is equal, whether it pays or not."""
    monkeypatch.setattr(batches, "merge", partial(merge, least_saving=0.0))


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
@pytest.mark.usefixtures("share_all")
def test_gradients_are_those_of_rows_run_alone(changes):
    model, rows = make_model(**changes), group()
    batch = pack(rows, CPU)
    assert len(batch.input_ids_T) == distinct(rows) < sum(map(len, rows)) / 1.5
    assert_equal(gradients(model, loss(model, batch)), gradients(model, alone(model, rows)), 1e-9)


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
@settings(max_examples=25, deadline=None)
@given(rows=ROWS.filter(lambda rows: any(r.trained for r in rows)), least=st.sampled_from([0.0, 0.01, 0.3]))
def test_gradients_of_random_trees_are_those_of_rows_run_alone(changes, rows, least):
    model = make_model(**changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "merge", partial(merge, least_saving=least))
        batch = pack(rows, CPU)
    assert_equal(gradients(model, loss(model, batch)), gradients(model, alone(model, rows)), 1e-9)


def test_gradients_in_single_precision_are_those_of_rows_run_alone():
    exact, model, rows = make_model(), make_model().float(), group()
    found = gradients(model, loss(model, pack(rows, CPU)))
    assert_equal(found, gradients(exact, alone(exact, rows)), 1e-5)


@pytest.mark.usefixtures("share_all")
def test_recomputed_activations_change_no_gradient():
    model, rows = make_model(use_sliding_window=True, sliding_window=4, max_window_layers=1), group()
    plain = gradients(model, loss(model, pack(rows, CPU)))
    with Recomputation(model.get_decoder())():
        again = gradients(model, loss(model, pack(rows, CPU)))
    assert_equal(again, plain, 1e-12)


@pytest.mark.parametrize("token_budget", [1, 40, 1000])
def test_an_update_is_that_of_rows_that_share_nothing(model, monkeypatch, token_budget):
    rows = group()
    found, metrics = helpers.gradients(model, rows, CrossEntropy(), token_budget=token_budget)
    monkeypatch.setattr(batches, "merge", partial(merge, least_saving=math.inf))
    wanted, plain = helpers.gradients(model, rows, CrossEntropy(), token_budget=1)
    assert_equal(found, wanted, 1e-9)
    assert metrics == pytest.approx(plain, rel=1e-9)


def test_outputs_come_back_in_the_order_of_the_rows(model):
    rows = [r for pair in zip(group(0), group(1), strict=True) for r in pair]
    found = helpers.make_learner(model, token_budget=60).outputs(rows)
    for r, got in zip(rows, found, strict=True):
        np.testing.assert_allclose(got, helpers.alone_logprobs(model, r).detach().numpy(), atol=1e-6)


def test_rows_without_anything_in_common_lie_end_to_end():
    batch = pack([row([5, 6, 7], [2]), row([8, 9])], CPU)
    assert batch.input_ids_T.tolist() == [5, 6, 8]  # what follows the last prediction is not computed
    assert batch.positions_T.tolist() == [0, 1, 0]
    assert batch.cu_seqlens == [0, 2, 3]
    assert batch.parents == [-1, -1]
    assert batch.predict_N.tolist() == [1, 2]
    assert batch.targets_N.tolist() == [7, 9]


def test_rows_that_predict_different_tokens_from_one_place_share_it():
    batch = pack([row([4, 5, 6], [2], 0), row([4, 5, 7], [2], 1), row([4, 5, 6, 1], [1, 3], 2)], CPU)
    assert batch.input_ids_T.tolist() == [4, 5, 6]
    assert batch.predict_N.tolist() == [1, 1, 0, 2]
    assert batch.targets_N.tolist() == [6, 7, 5, 1]
    assert batch.sequence_N.tolist() == [0, 1, 2, 2]


@settings(deadline=None)
@given(rows=ROWS)
def test_trained_tokens_stay_in_the_order_of_the_rows(rows):
    batch, tokens = pack(rows, CPU), tokens_of(rows, CPU)
    assert torch.equal(batch.columns["weights"], tokens.columns["weights"])
    assert torch.equal(batch.sequence_N, tokens.sequence_N)
    assert batch.targets_N.tolist() == [int(t) for r in rows for t in r.token_ids[r.mask]]
    before = [int(r.token_ids[at - 1]) for r in rows for at in np.flatnonzero(r.mask)]
    assert batch.input_ids_T[batch.predict_N].tolist() == before


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, budget=st.integers(1, 40))
def test_a_plan_has_each_row_once_and_keeps_to_the_budget(rows, budget):
    groups = plan(rows, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(rows)))
    sizes = [distinct([rows[i] for i in group]) for group in groups]
    assert all(len(group) == 1 or size <= budget for group, size in zip(groups, sizes, strict=True))
    assert sizes == sorted(sizes, reverse=True)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6), budget=st.integers(1, 40))
def test_a_plan_is_the_cheapest_cut_of_the_sorted_rows(rows, budget):
    order = sorted(range(len(rows)), key=lambda i: (used(rows)[i], i))

    def cost(groups):
        return sum(batches.BATCH_COST + distinct([rows[i] for i in group]) for group in groups)

    cuts = []
    for chosen in range(2 ** (len(rows) - 1)):
        at = [0, *(i + 1 for i in range(len(rows) - 1) if chosen >> i & 1), len(rows)]
        groups = [order[a:b] for a, b in pairwise(at)]
        if all(len(group) == 1 or distinct([rows[i] for i in group]) <= budget for group in groups):
            cuts.append(cost(groups))
    assert cost(plan(rows, budget)) == min(cuts)


def test_a_plan_keeps_samples_of_a_prompt_together():
    rows = [row([prompt] * 20 + [sample, 9, 9, 9]) for sample in range(5) for prompt in (1, 2, 3)]
    groups = plan(rows, token_budget=20 + 5 * 3)  # a prompt and its five answers, the last token left out
    assert sorted(sorted(int(rows[i].token_ids[0]) for i in group) for group in groups) == [[1] * 5, [2] * 5, [3] * 5]


def test_no_rows_make_no_micro_batches():
    assert plan([], 100) == []


def test_a_row_whose_first_token_is_trained_is_refused():
    with pytest.raises(ValueError, match="first token"):
        Row(np.array([1, 2], np.int32), np.array([True, True]), {})


def test_a_column_of_another_length_is_refused():
    with pytest.raises(ValueError, match="`weights` has 2 numbers for 1"):
        Row(np.array([1, 2], np.int32), np.array([False, True]), {"weights": np.ones(2, np.float32)})
