"""Drawing tokens: the right distribution, the right log-probs, each row for itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.inference import SamplingParams
from agentlightning.inference.sampling import sample
from agentlightning.types import RequestError


def draw(
    logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor, top_k: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rows = len(uniform)
    full = logits.expand(rows, -1)
    settings = torch.full((rows,), temperature), torch.full((rows,), top_p), torch.full((rows,), top_k)
    ids, logprobs = sample(full, *settings, uniform)
    return ids.numpy(), logprobs.numpy()


def test_tokens_come_with_their_probability() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    grid = (torch.arange(10_000) + 0.5) / 10_000
    ids, _ = draw(logits, 0.7, 1.0, grid)
    expected = torch.softmax(logits / 0.7, -1).numpy()
    np.testing.assert_allclose(np.bincount(ids, minlength=4) / 10_000, expected, atol=2e-4)


def test_logprobs_are_at_the_temperature_and_before_top_p() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    ids, logprobs = draw(logits, 0.7, 0.5, torch.tensor([0.1, 0.9]))
    np.testing.assert_allclose(logprobs, torch.log_softmax(logits / 0.7, -1)[ids].numpy(), rtol=1e-6)


def test_temperature_zero_takes_the_likeliest_at_temperature_one() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    ids, logprobs = draw(logits, 0.0, 1.0, torch.tensor([0.0, 0.5, 0.999]))
    assert ids.tolist() == [3, 3, 3]
    np.testing.assert_allclose(logprobs, torch.log_softmax(logits, -1)[3].item(), rtol=1e-6)


@pytest.mark.parametrize("vocabulary", [5, 60, 500])
@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_top_p_keeps_the_smallest_set_that_is_enough(vocabulary: int, spread: float) -> None:
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * spread
    grid = (torch.arange(4_000) + 0.5) / 4_000
    ids, _ = draw(logits, 1.0, 0.8, grid)
    ranked, order = torch.softmax(logits, -1).sort(descending=True)
    kept = int((ranked.double().cumsum(0) < 0.8).sum()) + 1
    expected = torch.zeros(vocabulary)
    expected[order[:kept]] = ranked[:kept] / ranked[:kept].sum()
    # Rounding may shift the border by one token of 500, not by more.
    np.testing.assert_allclose(np.bincount(ids, minlength=vocabulary) / 4_000, expected.numpy(), atol=3e-3)
    assert len(set(ids.tolist())) <= kept + 1


GRID = (torch.arange(2_000) + 0.5) / 2_000


@pytest.mark.parametrize("k", [1, 2, 5, 64, 70])
def test_top_k_draws_the_k_likeliest_in_their_proportion(k: int) -> None:
    logits = torch.randn(70, generator=torch.Generator().manual_seed(3))
    ids, logprobs = draw(logits, 0.8, 1.0, GRID, k)
    probabilities = torch.softmax(logits / 0.8, -1)
    kept = torch.zeros(70).scatter(0, probabilities.topk(k).indices, 1.0) * probabilities
    np.testing.assert_allclose(np.bincount(ids, minlength=70) / 2_000, kept / kept.sum(), atol=1e-3)
    np.testing.assert_allclose(logprobs, probabilities.log()[ids].numpy(), rtol=1e-5)


def test_a_k_larger_than_the_vocabulary_leaves_all_tokens() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    assert draw(logits, 1.0, 1.0, GRID, 99)[0].tolist() == draw(logits, 1.0, 1.0, GRID)[0].tolist()


def test_top_k_of_one_takes_the_likeliest_also_where_two_are() -> None:
    logits = torch.tensor([0.0, 3.0, -1.0, 3.0])
    assert set(draw(logits, 1.7, 1.0, GRID, 1)[0].tolist()) == {1}
    assert draw(logits, 0.0, 1.0, GRID, 1)[0].tolist() == draw(logits, 0.0, 1.0, GRID, 3)[0].tolist()


def test_ties_at_the_border_of_top_k_all_stay() -> None:
    logits = torch.tensor([0.0, 1.0, 3.0, 1.0, 1.0])
    assert set(draw(logits, 1.0, 1.0, GRID, 2)[0].tolist()) == {1, 2, 3, 4}


def test_of_top_p_and_top_k_the_narrower_counts() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    for top_p, top_k, kept in ((0.65, 3, 2), (0.65, 1, 1), (0.95, 3, 3), (1.0, 3, 3), (0.65, 0, 2)):
        assert set(draw(logits, 1.0, top_p, GRID, top_k)[0].tolist()) == set(range(kept)), (top_p, top_k)


def test_the_ends_of_the_unit_interval_give_tokens_that_have_weight() -> None:
    logits = torch.tensor([-math.inf, 1.0, 0.5, -math.inf])
    ids, logprobs = draw(logits, 1.0, 1.0, torch.tensor([0.0, 1 - 2**-24]))
    assert ids.tolist() == [1, 2]
    assert np.isfinite(logprobs).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_give_such_logprobs(bad: float) -> None:
    logits = torch.stack([torch.zeros(4), torch.tensor([0.0, bad, 0.0, 0.0])])
    _, logprobs = sample(logits, torch.ones(2), torch.ones(2), torch.zeros(2).long(), torch.tensor([0.5, 0.5]))
    assert np.isfinite(logprobs.numpy()).tolist() == [True, False]


row = st.tuples(
    st.sampled_from([0.0, 0.5, 1.0, 1.7]), st.sampled_from([0.3, 0.9, 1.0]), st.sampled_from([0, 1, 3, 400]),
    st.floats(0, 1 - 2**-24, width=32),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(row, min_size=1, max_size=20), vocabulary=st.sampled_from([7, 64, 333, 1500]), seed=st.integers(0, 99)
)
def test_a_row_depends_on_nothing_but_itself(
    rows: list[tuple[float, float, int, float]], vocabulary: int, seed: int
) -> None:
    logits = torch.randn(len(rows), vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
    ids, logprobs = sample(logits, *columns)
    for at in range(len(rows)):
        alone, its_logprob = sample(logits[at : at + 1], *(column[at : at + 1] for column in columns))
        assert alone.item() == ids[at].item()
        assert its_logprob.numpy().tobytes() == logprobs[at : at + 1].numpy().tobytes()


def test_uniforms_follow_the_seed() -> None:
    assert np.array_equal(SamplingParams(seed=-3).uniforms(50), SamplingParams(seed=-3).uniforms(50))
    assert not np.array_equal(SamplingParams(seed=1).uniforms(50), SamplingParams(seed=2).uniforms(50))
    assert not np.array_equal(SamplingParams().uniforms(50), SamplingParams().uniforms(50))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("stop", ("x",) * 17),
        ("stop", tuple(map(str, range(10_000)))),
        ("stop", ("",)),
        ("stop_token_ids", tuple(range(17))),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", (2**31,)),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"`{field}`") as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert caught.value.status == 400
    assert caught.value.param == field
    assert len(caught.value.message) < 200
