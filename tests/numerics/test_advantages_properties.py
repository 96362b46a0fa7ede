"""Every estimator on random batches: against loops over Python numbers, and by what must not change it."""

from __future__ import annotations

import copy
import dataclasses
import uuid
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.learner.advantages import advantage_estimators, compute_advantages, masked, recursion, requirements

from .naive_advantages import REFERENCES

OURS = tuple(REFERENCES)
KEYS, WEIGHTS = ["accuracy", "format"], [1.0, 0.5]


@dataclasses.dataclass
class Batch:
    """Columns in float64, and labels of groups whose rows are not neighbours."""

    rewards: torch.Tensor
    mask: torch.Tensor
    index: list[Any]
    values: torch.Tensor
    baselines: torch.Tensor
    old_log_probs: torch.Tensor
    sum_pi_squared: torch.Tensor
    is_weights: torch.Tensor | None
    components: dict[str, torch.Tensor]
    config: dict[str, Any]

    def compute(
        self, name: str, dtype: torch.dtype = torch.float64, **config: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return compute_advantages(
            name,
            token_level_rewards=self.rewards.to(dtype),
            response_mask=self.mask,
            index=self.index,
            values=self.values.to(dtype),
            reward_baselines=self.baselines.to(dtype),
            old_log_probs=self.old_log_probs.to(dtype),
            sum_pi_squared=self.sum_pi_squared.to(dtype),
            rollout_is_weights=None if self.is_weights is None else self.is_weights.to(dtype),
            config={**self.config, **config},
            **{key: values.to(dtype) for key, values in self.components.items()},
        )

    def expected(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        advantages, returns = REFERENCES[name](
            self.rewards.tolist(),
            self.mask.tolist(),
            index=self.index,
            values=self.values.tolist(),
            baselines=self.baselines.tolist(),
            old_log_probs=self.old_log_probs.tolist(),
            sum_pi_squared=self.sum_pi_squared.tolist(),
            is_weights=None if self.is_weights is None else self.is_weights.tolist(),
            components=[(self.components[key].tolist(), weight) for key, weight in zip(KEYS, WEIGHTS, strict=True)],
            norm=self.config["norm_adv_by_std_in_grpo"],
            gamma=self.config["gamma"],
            lam=self.config["lam"],
            cut=self.config["handle_zero_tail"],
        )
        return torch.tensor(advantages, dtype=torch.float64), torch.tensor(returns, dtype=torch.float64)

    def rows(self, order: list[int]) -> Batch:
        return Batch(
            index=[self.index[i] for i in order],
            config=self.config,
            components={key: values[order] for key, values in self.components.items()},
            **{
                field.name: None if (column := getattr(self, field.name)) is None else column[order]
                for field in dataclasses.fields(self)
                if field.name not in ("index", "config", "components")
            },
        )


@st.composite
def batches(draw: st.DrawFn, *, smallest_group: int = 1) -> Batch:
    sizes = draw(st.lists(st.integers(smallest_group, 4), min_size=1, max_size=4))
    length = draw(st.integers(2, 7))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = [uuid.UUID(int=number) for number, size in enumerate(sizes) for _ in range(size)]
    rows = len(labels)
    mask = generator.random((rows, length)) < draw(st.sampled_from([0.3, 0.8, 1.0]))
    mask[0, :2] = True
    # Multiples of 1/4, so that ties are ties in every type; an outcome at one position, or rewards everywhere.
    rewards = generator.integers(-4, 5, (rows, length)) / 4
    if draw(st.booleans()):
        rewards *= np.arange(length) == generator.integers(length)

    def column(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.normal(size=shape or (rows, length)))

    return Batch(
        rewards=torch.from_numpy(rewards),
        mask=torch.from_numpy(mask.astype(np.int64)),
        index=[labels[i] for i in generator.permutation(rows)],
        values=column(),
        baselines=column(rows),
        old_log_probs=-column().abs() - 0.1,
        sum_pi_squared=torch.from_numpy(generator.random((rows, length))),
        is_weights=column().exp() if draw(st.booleans()) else None,
        components={key: torch.from_numpy(generator.integers(0, 3, rows) / 2) for key in KEYS},
        config={
            "norm_adv_by_std_in_grpo": draw(st.booleans()),
            "gamma": draw(st.sampled_from([1.0, 0.9, 0.0])),
            "lam": draw(st.sampled_from([1.0, 0.7, 0.0])),
            "gdpo_reward_keys": KEYS,
            "gdpo_reward_weights": WEIGHTS,
            "handle_zero_tail": draw(st.booleans()),
        },
    )


def drawn(data: st.DataObject, name: str) -> Batch:
    return data.draw(batches(smallest_group=2 if name == "grpo_passk" else 1))


def test_all_estimators_have_a_reference():
    assert set(advantage_estimators()) >= set(OURS)
    assert len(OURS) == 14


@pytest.mark.parametrize("name", OURS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equals_the_formula_written_as_loops(name: str, data: st.DataObject):
    batch = drawn(data, name)
    with pytest.MonkeyPatch.context() as patch:
        # So small that a batch takes several blocks of rows and of columns, as a large one does.
        for module in (masked, recursion):
            patch.setattr(module, "ELEMENTS", data.draw(st.sampled_from([1, 8, 1 << 16])))
        results = batch.compute(name)
    for result, expected in zip(results, batch.expected(name), strict=True):
        assert result.dtype == torch.float64
        tolerance = 1e-5 if name == "grpo_vectorized" else 1e-9
        torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OURS)
def test_float32_is_as_near_as_float32_can_be(name: str):
    generator = torch.Generator().manual_seed(5)
    batch = batch_of(generator, rows=24, length=50)
    for result, expected in zip(batch.compute(name, torch.float32), batch.expected(name), strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


def batch_of(generator: torch.Generator, rows: int, length: int) -> Batch:
    def column(*shape: int) -> torch.Tensor:
        return torch.randn(*(shape or (rows, length)), generator=generator, dtype=torch.float64)

    return Batch(
        rewards=column(),
        mask=(torch.rand(rows, length, generator=generator) < 0.7).long(),
        index=[i % (rows // 4) for i in range(rows)],
        values=column(),
        baselines=column(rows),
        old_log_probs=-column().abs(),
        sum_pi_squared=column().sigmoid(),
        is_weights=None,
        components={key: column(rows) for key in KEYS},
        config={
            "norm_adv_by_std_in_grpo": True,
            "gamma": 0.95,
            "lam": 0.9,
            "gdpo_reward_keys": KEYS,
            "gdpo_reward_weights": WEIGHTS,
            "handle_zero_tail": True,
        },
    )


@pytest.mark.parametrize("name", OURS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_the_order_of_rows_does_not_matter(name: str, data: st.DataObject):
    batch = drawn(data, name)
    order = data.draw(st.permutations(range(len(batch.index))))
    for permuted, result in zip(batch.rows(order).compute(name), batch.compute(name), strict=True):
        torch.testing.assert_close(permuted, result[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OURS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_padding_on_the_right_changes_nothing(name: str, data: st.DataObject):
    batch = drawn(data, name)
    width = data.draw(st.integers(1, 3))

    def padded(column: torch.Tensor | None, value: float = float("nan")) -> torch.Tensor | None:
        return None if column is None else torch.nn.functional.pad(column, (0, width), value=value)

    wider = dataclasses.replace(
        batch,
        rewards=padded(batch.rewards, 0.0),
        mask=padded(batch.mask, 0),
        values=padded(batch.values),
        old_log_probs=padded(batch.old_log_probs),
        sum_pi_squared=padded(batch.sum_pi_squared),
        is_weights=padded(batch.is_weights),
    )
    for wide, result in zip(wider.compute(name), batch.compute(name), strict=True):
        torch.testing.assert_close(wide[:, :-width], result, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", OURS)
def test_inputs_are_left_as_they_are(name: str, rows: int):
    batch = batch_of(torch.Generator().manual_seed(0), rows=8, length=6).rows(list(range(rows)))
    batch.is_weights = batch.values.exp()
    before = copy.deepcopy(batch)
    if name == "grpo_passk":
        batch.index = before.index = ["one group"] * rows
    if (name, rows) != ("grpo_passk", 1):
        batch.compute(name)
    for field in dataclasses.fields(batch):
        left, given_ = getattr(batch, field.name), getattr(before, field.name)
        assert torch.equal(left, given_) if isinstance(left, torch.Tensor) else str(left) == str(given_)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32, torch.float64])
def test_the_type_of_the_mask_does_not_matter(name: str, dtype: torch.dtype):
    batch = batch_of(torch.Generator().manual_seed(1), rows=8, length=6)
    for other, result in zip(
        dataclasses.replace(batch, mask=batch.mask.to(dtype)).compute(name), batch.compute(name), strict=True
    ):
        assert torch.equal(other, result)


LINEAR = ["rloo", "rloo_vectorized", "opo", "gpg"]
SCALE_FREE = ["reinforce_plus_plus", "reinforce_plus_plus_baseline", "grpo", "grpo_passk"]


@pytest.mark.parametrize("name", LINEAR)
def test_rewards_three_times_as_large_give_advantages_three_times_as_large(name: str):
    batch = batch_of(torch.Generator().manual_seed(2), rows=12, length=5)
    tripled = dataclasses.replace(batch, rewards=3 * batch.rewards)
    torch.testing.assert_close(tripled.compute(name)[0], 3 * batch.compute(name)[0])


@pytest.mark.parametrize("name", SCALE_FREE)
def test_what_is_normalised_does_not_depend_on_the_scale_of_rewards(name: str):
    batch = batch_of(torch.Generator().manual_seed(2), rows=12, length=5)
    tripled = dataclasses.replace(batch, rewards=3 * batch.rewards)
    torch.testing.assert_close(tripled.compute(name)[0], batch.compute(name)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in OURS if requirements(name).group_relative])
def test_a_bonus_to_all_rows_of_a_group_changes_nothing(name: str):
    """But for what reads other columns, and for the share of rows with a score that scales `gpg`."""
    batch = batch_of(torch.Generator().manual_seed(3), rows=12, length=5)
    batch.mask[:] = 1
    bonus = torch.zeros_like(batch.rewards)
    bonus[:, -1] = torch.tensor([10.0 if label == batch.index[0] else 0.0 for label in batch.index])
    moved = dataclasses.replace(batch, rewards=batch.rewards + bonus)
    moved.components = {key: values + bonus[:, -1] for key, values in batch.components.items()}
    torch.testing.assert_close(moved.compute(name)[0], batch.compute(name)[0], rtol=1e-6, atol=1e-6)
