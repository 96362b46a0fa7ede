"""Samples of the mission's documents that this version covers, as they stand there but for names to be bound."""

import pytest

import agentlightning as agl
from tests.e2e.letters import TASKS, letters_agent, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("seeds") / "tiny")


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_both_imports_give_the_package():
    from agentlightning import agl as shortcut

    assert shortcut is agl


SMALL = {"data.max_prompt_length": 60, "data.max_response_length": 4, "agentlightning.threads": 1}


def test_verl_as_the_selection_guide_writes_it(model):
    """Document 000, VERL configuration; the trainer is given everything and `fit()` nothing."""
    my_lit_agent = letters_agent
    my_lit_agent.train_dataset = TASKS
    verl_cfg = {
        "main_llm": {"model": str(model)},
        "rollout_batch_size": 4,
        "train_batch_size": 8,
    }
    verl = agl.VERL({**verl_cfg, **SMALL})
    trainer = agl.Trainer(
        agent=my_lit_agent,
        algorithm=verl,
        n_runners=4,
        max_iterations=2,
    )
    try:
        trainer.fit()
    finally:
        del my_lit_agent.train_dataset
    assert [row["step"] for row in verl.history] == [1, 2]
    assert verl.history[0]["training/n_rollouts"] == 8


def test_the_reference_page_passes_the_algorithm_to_fit(model):
    """Documents 001 and 002: `trainer.fit(algorithm, train_dataset=...)`, nested verl keys."""
    from agentlightning.algorithm.verl import VERL

    algorithm = VERL(
        config={
            "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False},
            "data": {"train_batch_size": 8, "max_prompt_length": 60, "max_response_length": 4},
            "actor_rollout_ref": {
                "rollout": {
                    "tensor_model_parallel_size": 1,
                    "n": 4,
                    "log_prob_micro_batch_size_per_gpu": 4,
                    "multi_turn": {"format": "hermes"},
                    "name": "vllm",
                    "gpu_memory_utilization": 0.6,
                },
                "actor": {
                    "ppo_mini_batch_size": 8,
                    "ppo_micro_batch_size_per_gpu": 4,
                    "optim": {"lr": 1e-6},
                    "use_kl_loss": False,
                    "kl_loss_coef": 0.0,
                    "entropy_coeff": 0,
                    "clip_ratio_low": 0.2,
                    "clip_ratio_high": 0.3,
                    "fsdp_config": {"param_offload": True, "optimizer_offload": True},
                },
                "ref": {"log_prob_micro_batch_size_per_gpu": 8, "fsdp_config": {"param_offload": True}},
                "model": {"path": str(model), "use_remove_padding": True, "enable_gradient_checkpointing": True},
            },
            "trainer": {
                "n_gpus_per_node": 1,
                "val_before_train": True,
                "critic_warmup": 0,
                "logger": ["console", "wandb"],
                "project_name": "AgentLightning",
                "experiment_name": "calc_x",
                "nnodes": 1,
                "save_freq": 64,
                "test_freq": 32,
                "total_epochs": 2,
            },
        }
    )
    trainer = agl.Trainer(agent=letters_agent, n_runners=4)
    my_train_dataset = TASKS
    trainer.fit(algorithm, train_dataset=my_train_dataset)
    assert [row["step"] for row in algorithm.history] == [1, 2]


class ByHand(agl.LitAgent):
    """Document 002: a class-based agent resolves the `ProxyLLM` itself."""

    def rollout(self, task, resources, rollout):
        proxy_llm = resources["main_llm"]
        url = proxy_llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        assert isinstance(proxy_llm, agl.ProxyLLM)
        assert f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}/v1" in url
        return letters_agent(task, agl.LLM(endpoint=url, model=proxy_llm.model, api_key="none"))


def test_a_class_agent_resolves_the_proxy_by_hand(model):
    algorithm = agl.VERL({"actor_rollout_ref.model.path": str(model), "data.train_batch_size": 8, **SMALL})
    agl.Trainer(algorithm=algorithm, n_runners=4, max_iterations=1).fit(ByHand(), TASKS)
    assert algorithm.history[-1]["training/n_rollouts_failed"] == 0


def test_verl_without_a_store_says_so(model):
    import asyncio

    algorithm = agl.VERL({"actor_rollout_ref.model.path": str(model)})
    with pytest.raises(ValueError, match="no store"):
        asyncio.run(algorithm.run(TASKS))


def test_a_triplets_input_is_its_prompt():
    triplet = agl.Triplet(prompt={"token_ids": [1]}, response={"token_ids": [2]})
    assert triplet.input is triplet.prompt
