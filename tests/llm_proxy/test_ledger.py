"""Tokens and money by rollout and by model."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.llm_proxy.ledger import Ledger, Prices, RolloutUsage
from agentlightning.llm_proxy.routes import ModelRoutes
from agentlightning.types import ConfigError

from .endpoints import HttpEndpoint

entry = HttpEndpoint().entry


def usage(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 1}


def test_sums_by_rollout_and_by_model() -> None:
    routes = ModelRoutes()
    priced = {"input_cost_per_token": 0.5, "output_cost_per_token": 2}
    routes.set_model_list([entry("a", **priced), entry("b")])
    ledger = Ledger(routes.prices)
    ledger.add("ro-1", "a", usage(10, 3))
    ledger.add("ro-1", "b", usage(100, 30))
    ledger.add("ro-2", "a", usage(1, 1))
    assert ledger.of("ro-1") == RolloutUsage(2, 110, 33, 11.0)
    assert ledger.of("ro-2") == RolloutUsage(1, 1, 1, 2.5)
    assert ledger.of("ro-3") == RolloutUsage()
    assert ledger.totals() == {"a": RolloutUsage(2, 11, 4, 13.5), "b": RolloutUsage(1, 100, 30, 0.0)}


@pytest.mark.parametrize("wrong", [None, "7", -5, 2.5, True, [1]])
def test_what_an_endpoint_garbles_counts_as_nothing(wrong: Any) -> None:
    ledger = Ledger()
    ledger.add("ro-1", "a", usage(wrong, 4))
    ledger.add("ro-1", "a", {})
    assert ledger.of("ro-1") == RolloutUsage(2, 0, 4, 0.0)


def test_it_forgets_who_called_longest_ago_but_not_the_sums() -> None:
    ledger = Ledger(lambda _: Prices(1.0, 0.0), limit=2)
    for rollout in ("ro-1", "ro-2", "ro-1", "ro-3"):
        ledger.add(rollout, "a", usage(1, 0))
    assert [ledger.of(f"ro-{number}").calls for number in (1, 2, 3)] == [2, 0, 1]
    assert ledger.totals() == {"a": RolloutUsage(4, 4, 0, 4.0)}


def test_prices_may_stand_where_litellm_has_them() -> None:
    routes = ModelRoutes()
    routes.set_model_list([{**entry("a"), "model_info": {"input_cost_per_token": 1e-6, "id": "x"}}])
    assert routes.prices("a") == Prices(1e-6, 0.0)
    assert routes.model_info("a") == {"input_cost_per_token": 1e-6, "id": "x"}
    assert (routes.prices("b"), routes.model_info("b")) == (Prices(), {})


def test_two_prices_of_one_model_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the entries of `a` .* different prices"):
        ModelRoutes().set_model_list([entry("a"), entry("a", input_cost_per_token=1)])
