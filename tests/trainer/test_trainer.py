"""`Trainer.dev` and `Trainer.fit` with agents that need no model: wiring, both ways of calling, bad input."""

import math

import pytest

import agentlightning as agl
from agentlightning.types import LLM, ConfigError, DatasetError, RunExistsError

LLM_RESOURCE = {"main_llm": LLM(endpoint="http://127.0.0.1:9/v1", model="none")}


@agl.rollout
def length_agent(task, llm):
    return float(len(task["text"]))


class Collect(agl.Algorithm):
    """Enqueues every task and remembers what came of it."""

    async def run(self, train_dataset=None, val_dataset=None):
        store = self.get_store()
        await store.add_resources(self.get_initial_resources())
        requests = [agl.EnqueueRolloutRequest(input=task, mode="train") for task in train_dataset]
        queued = await store.enqueue_many_rollouts(requests)
        self.done = await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in queued])
        self.tasks = [rollout.input for rollout in self.done]


TASKS = [{"text": "a" * n} for n in range(1, 6)]


def test_dev_runs_every_task_and_reports_rewards():
    result = agl.Trainer(n_runners=2, initial_resources=LLM_RESOURCE).dev(length_agent, TASKS)
    assert sorted(result.rewards) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert {rollout.status for rollout in result.rollouts} == {"succeeded"}


def test_dev_refuses_an_algorithm_that_learns():
    with pytest.raises(TypeError, match="use `fit`"):
        agl.Trainer(algorithm=Collect()).dev(length_agent, TASKS)


@pytest.mark.parametrize("way", ["fit(agent)", "fit()", "fit(algorithm)"])
def test_every_way_of_calling_fit(way, tmp_path):
    algorithm = Collect()
    common = {"initial_resources": LLM_RESOURCE, "n_runners": 3, "run_dir": tmp_path / "run"}
    if way == "fit(agent)":
        agl.Trainer(algorithm=algorithm, **common).fit(length_agent, TASKS)
    elif way == "fit()":
        length_agent.train_dataset = TASKS
        try:
            agl.Trainer(agent=length_agent, algorithm=algorithm, **common).fit()
        finally:
            del length_agent.train_dataset
    else:
        agl.Trainer(agent=length_agent, **common).fit(algorithm, train_dataset=TASKS)
    assert sorted(task["text"] for task in algorithm.tasks) == [task["text"] for task in TASKS]
    assert (tmp_path / "run" / "store.sqlite").exists()


def test_the_store_outlives_the_run(tmp_path):
    agl.Trainer(algorithm=Collect(), initial_resources=LLM_RESOURCE, run_dir=tmp_path / "run").fit(length_agent, TASKS)

    async def read():
        store = agl.SqlLightningStore(tmp_path / "run" / "store.sqlite")
        try:
            return await store.query_rollouts()
        finally:
            await store.close()

    import asyncio

    assert [rollout.status for rollout in asyncio.run(read())] == ["succeeded"] * 5


def test_an_existing_run_is_refused_and_resumed(tmp_path):
    trainer = agl.Trainer(algorithm=Collect(), initial_resources=LLM_RESOURCE, run_dir=tmp_path / "run")
    trainer.fit(length_agent, TASKS)
    with pytest.raises(RunExistsError, match="resume it"):
        trainer.fit(length_agent, TASKS)
    trainer.fit(length_agent, TASKS, resume=True)


def test_resume_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run"):
        agl.Trainer(algorithm=Collect(), run_dir=tmp_path / "none").fit(length_agent, TASKS, resume=True)


def test_tasks_come_from_the_queue_of_the_store(tmp_path):
    import asyncio

    store = agl.InMemoryLightningStore()
    asyncio.run(store.enqueue_rollout({"text": "queued"}))
    algorithm = Collect()
    trainer = agl.Trainer(algorithm=algorithm, store=store, initial_resources=LLM_RESOURCE, run_dir=tmp_path / "run")
    trainer.fit(length_agent)
    assert algorithm.tasks == [{"text": "queued"}]
    assert sorted(rollout.status for rollout in asyncio.run(store.query_rollouts())) == ["cancelled", "succeeded"]


def test_no_tasks_anywhere_is_one_error_that_names_all_places(tmp_path):
    with pytest.raises(DatasetError, match=r"train_dataset.*data.train_files.*agent.*store"):
        agl.Trainer(algorithm=Collect(), run_dir=tmp_path / "run").fit(length_agent)
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        trainer = agl.Trainer(algorithm=Collect(), initial_resources=LLM_RESOURCE, run_dir=place)
        with pytest.raises(ConfigError, match="give"):
            trainer.fit(length_agent, TASKS)


def test_an_empty_dataset_is_refused_before_a_run_is_made(tmp_path):
    with pytest.raises(DatasetError, match="`train_dataset` is empty"):
        agl.Trainer(algorithm=Collect(), run_dir=tmp_path / "run").fit(length_agent, [])
    assert not (tmp_path / "run").exists()


def test_a_task_that_is_not_json_is_refused_and_the_name_is_free_again(tmp_path):
    trainer = agl.Trainer(algorithm=Collect(), initial_resources=LLM_RESOURCE, run_dir=tmp_path / "run")
    with pytest.raises(TypeError, match="input"):
        trainer.fit(length_agent, [{"text": object()}])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: agl.Trainer(algorithm=Collect()).fit(), "no agent"),
        (lambda: agl.Trainer(agent=length_agent).fit(), "no algorithm"),
        (lambda: agl.Trainer(algorithm=Collect()).fit(lambda task, llm: 1.0, TASKS), "@agl.rollout"),
        (lambda: agl.Trainer(algorithm=lambda: None).fit(length_agent, TASKS), "@agl.algo"),
        (lambda: agl.Trainer(n_runners=0), "`n_runners` must be at least 1"),
        (lambda: agl.Trainer(max_iterations=0), "`max_iterations` must be at least 1"),
    ],
)
def test_wrong_wiring_is_one_clear_error(make, match):
    with pytest.raises(ConfigError, match=match):
        make()


@agl.rollout
def raising_agent(task, llm):
    raise RuntimeError(f"no idea about {task}")


@agl.rollout
def talking_agent(task, llm):
    return "very good"


@agl.rollout
def nan_agent(task, llm):
    return math.nan


@agl.rollout
def silent_agent(task, llm):
    return None


@pytest.mark.parametrize(
    ("agent", "reason"),
    [(raising_agent, "no idea about 1"), (talking_agent, "str"), (nan_agent, "nan")],
)
def test_a_bad_agent_is_a_failed_attempt_with_its_reason(agent, reason):
    result = agl.Trainer(initial_resources=LLM_RESOURCE).dev(agent, [1])
    (rollout,) = result.rollouts
    assert rollout.status == "failed"
    assert reason in rollout.attempt.metadata["error"]["message"]
    assert result.rewards == [None]


def test_an_agent_that_returns_nothing_has_no_reward():
    result = agl.Trainer(initial_resources=LLM_RESOURCE).dev(silent_agent, [1])
    assert result.rewards == [None]


def test_fit_works_inside_a_running_loop(tmp_path):
    """As in a notebook."""
    import asyncio

    async def cell():
        result = agl.Trainer(initial_resources=LLM_RESOURCE).dev(length_agent, TASKS)
        assert sorted(result.rewards) == [1.0, 2.0, 3.0, 4.0, 5.0]

    asyncio.run(cell())


def test_a_function_is_an_algorithm(tmp_path):
    seen = {}

    @agl.algo
    async def look(store, train_dataset, initial_resources):
        seen["tasks"] = list(train_dataset)
        seen["resources"] = list(initial_resources)
        await store.add_resources(initial_resources)
        await store.wait_for_rollouts(rollout_ids=[(await store.enqueue_rollout(train_dataset[0])).rollout_id])

    agl.Trainer(algorithm=look, initial_resources=LLM_RESOURCE, run_dir=tmp_path / "run").fit(length_agent, TASKS)
    assert seen == {"tasks": TASKS, "resources": ["main_llm"]}


def test_an_algorithm_that_raises_ends_the_run_with_its_error(tmp_path):
    @agl.algo
    def broken(train_dataset):
        raise RuntimeError("algorithm broke")

    with pytest.raises(RuntimeError, match="algorithm broke"):
        agl.Trainer(algorithm=broken, run_dir=tmp_path / "run").fit(length_agent, TASKS)


def test_a_failed_run_that_recorded_something_is_kept(tmp_path):
    @agl.algo
    async def late(store, train_dataset, initial_resources):
        await store.add_resources(initial_resources)
        rollout = await store.enqueue_rollout(train_dataset[0])
        await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])
        raise TypeError("after hours of work")

    trainer = agl.Trainer(algorithm=late, initial_resources=LLM_RESOURCE, run_dir=tmp_path / "run")
    with pytest.raises(TypeError, match="after hours"):
        trainer.fit(length_agent, TASKS)
    assert (tmp_path / "run" / "store.sqlite").stat().st_size > 0


def test_a_dataset_without_a_length_is_one_error(tmp_path):
    with pytest.raises(DatasetError, match="`train_dataset` is a generator; give a list"):
        agl.Trainer(algorithm=Collect(), run_dir=tmp_path / "run").fit(length_agent, (task for task in TASKS))


def test_a_second_trainer_on_a_live_run_is_refused_and_changes_nothing(tmp_path):
    seen = {}

    @agl.algo
    def first(train_dataset):
        before = (tmp_path / "run" / "config.json").read_bytes()
        with pytest.raises(agl.AgentLightningError, match="in use by this process"):
            agl.Trainer(algorithm=Collect(), run_dir=tmp_path / "run").fit(length_agent, TASKS, resume=True)
        seen["same"] = (tmp_path / "run" / "config.json").read_bytes() == before

    agl.Trainer(algorithm=first, run_dir=tmp_path / "run").fit(length_agent, TASKS)
    assert seen == {"same": True}


@pytest.mark.parametrize("tasks", ["tasks.jsonl", {"task": 1}])
def test_tasks_that_are_no_rows_are_refused(tasks, tmp_path):
    with pytest.raises(agl.DatasetError, match=r"`train_dataset` is a .*give a list"):
        agl.Trainer(algorithm=agl.Baseline(), run_dir=tmp_path / "run").fit(length_agent, tasks)
    assert not (tmp_path / "run").exists()


def test_hooks_that_are_none_are_refused():
    with pytest.raises(agl.ConfigError, match="`hooks` holds a int"):
        agl.Trainer(hooks=[3])  # type: ignore[list-item]


def test_counts_that_are_no_numbers_are_refused():
    with pytest.raises(agl.ConfigError, match="`n_runners` must be at least 1, got 'x'"):
        agl.Trainer(n_runners="x")  # type: ignore[arg-type]


def test_a_store_may_be_a_text(tmp_path):
    assert isinstance(agl.Trainer(store="http://127.0.0.1:4747").store, agl.LightningStoreClient)
    assert isinstance(agl.Trainer(store=str(tmp_path / "a.sqlite")).store, agl.SqlLightningStore)
