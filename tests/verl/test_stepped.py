"""The blocking methods of `AgentModeDaemon`: over several stores, inside and outside of an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from openai import OpenAI

import agentlightning as agl
from agentlightning.adapter import episode_adapter
from agentlightning.execution.events import ThreadingEvent
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore, LightningStore, SqlLightningStore
from agentlightning.types import ConfigError, DatasetError
from agentlightning.verl import AgentModeDaemon
from agentlightning.verl.stepped import tasks_of
from tests.llm_proxy.conftest import LocalBackend, Upstream, upstream
from tests.store.conftest import over_http

__all__ = ["upstream"]

_client = OpenAI(base_url="http://unused", api_key="none", max_retries=0)


@agl.rollout
def two_turns(task: Any, llm: agl.LLM) -> float:
    """Asks twice, and is worth what the task says."""
    client = _client.with_options(base_url=llm.get_base_url())
    for text in ("one", "two"):
        client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": text}])
    return float(task["worth"])


@pytest.fixture(params=["memory", "sqlite", "http"])
async def store(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[LightningStore]:
    if request.param == "http":
        async with over_http(InMemoryLightningStore()) as client:
            yield client
        return
    home = InMemoryLightningStore() if request.param == "memory" else SqlLightningStore(tmp_path / "store.sqlite")
    yield home
    await home.close()


@pytest.fixture
async def memory() -> AsyncIterator[LightningStore]:
    home = InMemoryLightningStore()
    yield home
    await home.close()


class Runner:
    """A runner in a thread of its own, as a trainer has them."""

    def __init__(self, store: LightningStore) -> None:
        self._event = ThreadingEvent()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._iterate(store)), daemon=True)

    async def _iterate(self, store: LightningStore) -> None:
        runner: agl.LitAgentRunner[Any] = agl.LitAgentRunner(agl.OtelTracer(), max_concurrency=4)
        with runner.run_context(agent=two_turns, store=store):
            await runner.iter(event=self._event)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._event.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def gateway(store: LightningStore, backend: LocalBackend | None = None) -> LLMProxy:
    proxy = LLMProxy(store=store)
    if backend is not None:
        proxy.set_backend("tiny", backend)
    return proxy


def daemon(store: LightningStore, *, kind: type[AgentModeDaemon] = AgentModeDaemon, **options: Any) -> AgentModeDaemon:
    return kind(
        store,
        {"main_llm": episode_adapter(None, "tiny")},
        seed=1,
        rollout_config=agl.RolloutConfig(timeout_seconds=60),
        **options,
    )


def two_steps(found: AgentModeDaemon, store: LightningStore) -> None:
    """A training batch and a validation, checked by what the backend answers: 3 tokens to a prompt, 2 to an answer."""
    found.start()
    with Runner(store):
        found.set_up_data_and_server([{"worth": 0.5}, {"worth": 2.0}])
        found.run_until_all_finished()
        batch, metrics = found.get_train_data_batch(4, 3, "cpu")
        found.clear_data_and_server()
        found.set_up_data_and_server({"worth": np.array([0.25, 0.75])}, is_train=False)
        found.run_until_all_finished(verbose=False)
        validated = found.get_test_metrics()
    found.stop()
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 10, 2, 0]] * 8
    assert batch["uid"].tolist() == [0] * 4 + [1] * 4
    assert batch["rollout_index"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch["turn_index"].tolist() == [0, 1] * 4
    assert batch["token_level_scores"].tolist() == [[0.0, 0.5, 0.0]] * 4 + [[0.0, 2.0, 0.0]] * 4
    assert batch["rollout_log_probs"].tolist() == [[-0.5, -0.25, 0.0]] * 8
    assert metrics["training/reward"] == 1.25
    assert metrics["training/n_triplets"] == 8.0
    assert validated["val/reward"] == 0.5
    assert (
        validated["val/n_rollouts"] == validated["val/n_rollouts_w_trace"] == validated["val/n_rollouts_w_reward"] == 2
    )
    assert validated["val/turn_count"] == 2.0
    assert (validated["val/mean_response_length"], validated["val/sum_response_length"]) == (2.0, 8.0)


async def test_batches_inside_of_a_running_loop_which_they_block(memory: LightningStore):
    two_steps(daemon(memory, n=2, llm_proxy=gateway(memory, LocalBackend())), memory)


async def test_batches_over_every_store(store: LightningStore):
    proxy = gateway(store, LocalBackend())
    await asyncio.to_thread(two_steps, daemon(store, n=2, llm_proxy=proxy), store)
    assert not proxy.is_running(), "who started it stops it"


def test_batches_without_an_event_loop(capsys: pytest.CaptureFixture[str]):
    home = InMemoryLightningStore()
    two_steps(daemon(home, n=2, llm_proxy=gateway(home, LocalBackend())), home)
    assert "rollouts  4/4" in capsys.readouterr().out
    asyncio.run(home.close())


async def test_resources_are_those_that_are_given(memory: LightningStore):
    proxy = gateway(memory, LocalBackend())
    await proxy.start()
    found = daemon(
        memory,
        n=2,
        resources={"main_llm": proxy.as_resource(), "rule": agl.PromptTemplate(template="be brief", engine="f-string")},
    )
    two_steps(found, memory)
    stored = await memory.get_latest_resources()
    assert stored is not None
    assert set(stored.resources) == {"main_llm", "rule"}
    assert proxy.is_running(), "it was not the daemon that started it"
    await proxy.stop()


async def test_servers_are_put_behind_the_gateway(memory: LightningStore, upstream: Upstream):
    address = upstream.url.removeprefix("http://").removesuffix("/v1")

    def step() -> Any:
        found = daemon(memory, llm_proxy=gateway(memory), model="tiny", pad_token_id=1)
        with Runner(memory):
            found.set_up_data_and_server([{"worth": 1.0}], [address])
            found.run_until_all_finished(verbose=False)
        batch, _ = found.get_train_data_batch(3, 3, "cpu")
        found.stop()
        return batch

    batch = await asyncio.to_thread(step)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 20, 2, 1]] * 2


async def test_what_is_unfinished_is_cancelled(memory: LightningStore):
    found = daemon(memory, n=3, llm_proxy=gateway(memory, LocalBackend()))
    found.set_up_data_and_server([{"worth": 1.0}])  # there is no runner
    await until_queued(memory, 3)
    found.clear_data_and_server()
    assert {rollout.status for rollout in await memory.query_rollouts()} == {"cancelled"}
    found.stop()
    found.stop()


async def test_who_waits_for_a_batch_learns_that_it_was_cleared(memory: LightningStore):
    """As when the run fails elsewhere, while the loop's own thread waits."""
    about_to_wait = threading.Event()

    class Waits(AgentModeDaemon):
        def run_until_all_finished(self, verbose: bool = True) -> None:
            batch = self._there()
            about_to_wait.set()
            batch.wait(verbose)

    found = daemon(memory, kind=Waits, llm_proxy=gateway(memory, LocalBackend()))
    found.set_up_data_and_server([{"worth": 1.0}])
    waiting = asyncio.create_task(asyncio.to_thread(found.run_until_all_finished, False))
    await asyncio.to_thread(about_to_wait.wait)
    found.stop()
    with pytest.raises(RuntimeError, match="the batch was cleared"):
        await waiting


async def until_queued(store: LightningStore, count: int) -> None:
    while len(await store.query_rollouts()) < count:  # noqa: ASYNC110  # another thread queues them
        await asyncio.sleep(0.01)


async def test_another_batch_has_seeds_of_its_own(memory: LightningStore):
    found = daemon(memory, llm_proxy=gateway(memory, LocalBackend()))
    with Runner(memory):
        for _ in range(2):
            found.set_up_data_and_server([{"worth": 1.0}])
            found.run_until_all_finished(verbose=False)
            found.clear_data_and_server()
    found.stop()
    about = [rollout.metadata or {} for rollout in await memory.query_rollouts()]
    assert sorted(each["step"] for each in about) == [1, 2]
    assert len({each["seed"] for each in about}) == 2


async def test_steps_out_of_order_are_refused(memory: LightningStore):
    found = daemon(memory, llm_proxy=gateway(memory, LocalBackend()))
    with pytest.raises(RuntimeError, match="call `set_up_data_and_server` first"):
        found.run_until_all_finished()
    found.set_up_data_and_server([{"worth": 1.0}])
    with pytest.raises(RuntimeError, match="call `run_until_all_finished` first"):
        found.get_train_data_batch(4, 4, "cpu")
    with pytest.raises(RuntimeError, match="the batch is for training; set it up with `is_train=False`"):
        found.get_test_metrics()
    with pytest.raises(RuntimeError, match="call `clear_data_and_server` first"):
        found.set_up_data_and_server([{"worth": 1.0}])
    with pytest.raises(ConfigError, match=r"`policy` is 'planner', and there are \['main_llm'\]"):
        found.get_train_data_batch(4, 4, "cpu", policy="planner")
    found.stop()


async def test_what_agents_cannot_call_is_refused(memory: LightningStore):
    alone = daemon(memory)
    with pytest.raises(ConfigError, match="with `resources` or with `llm_proxy`"):
        alone.set_up_data_and_server([{"worth": 1.0}])
    with pytest.raises(ConfigError, match="with `llm_proxy`, and with the `model`"):
        alone.set_up_data_and_server([{"worth": 1.0}], ["127.0.0.1:1"])
    alone.stop()
    assert len(await memory.query_rollouts()) == 0


async def test_a_task_that_cannot_be_stored_is_named_while_waiting(memory: LightningStore):
    found = daemon(memory, llm_proxy=gateway(memory, LocalBackend()))
    found.set_up_data_and_server([{"worth": {1, 2}}])
    with pytest.raises(DatasetError, match="a task can't be stored"):
        found.run_until_all_finished(verbose=False)
    found.stop()


def test_columns_become_tasks_of_plain_values():
    columns = {"a": np.array([1, 2]), "b": np.array([{"x": np.float32(0.5)}, None], object), "c": ["u", ("v",)]}
    assert tasks_of(columns) == [{"a": 1, "b": {"x": 0.5}, "c": "u"}, {"a": 2, "b": None, "c": ["v"]}]
    assert tasks_of({}) == []


@pytest.mark.parametrize("columns", [{"a": [1, 2], "b": [1]}, {"a": 3}])
def test_columns_that_make_no_table_are_refused(columns: Any):
    with pytest.raises(DatasetError, match="the columns of `data` must be lists of one length"):
        tasks_of(columns)
