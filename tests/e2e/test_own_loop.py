"""A training loop of a user's own, over `AgentModeDaemon`'s padded batches and a real model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

import agentlightning as agl
from agentlightning.verl import AgentLightningTrainer

from .letters import TASKS, config, letters_agent, make_model


class PlainTrainer(AgentLightningTrainer):
    """Trains on padded rows and compares their log-probs with those that the engine recorded."""

    async def fit(self, train_dataset: Any, val_dataset: Any) -> None:
        served = self.served["main_llm"]
        options: dict[str, Any] = {"resources": self.resources, "pad_token_id": served.tokenizer.pad_token_id}
        self.daemon = self.daemon_cls(
            self.store, self.adapters, seed=1, rollout_config=agl.RolloutConfig(timeout_seconds=60), n=2, **options
        )
        try:
            await asyncio.to_thread(self.learn, train_dataset)
        finally:
            self.daemon.stop()

    def learn(self, tasks: Any) -> None:
        served = self.served["main_llm"]
        optimizer = torch.optim.SGD(served.model.parameters(), lr=0.1)
        for step in (1, 2):
            self.daemon.set_up_data_and_server(tasks)
            self.daemon.run_until_all_finished(verbose=False)
            batch, metrics = self.daemon.get_train_data_batch(60, 6, "cpu")
            self.daemon.clear_data_and_server()
            with served.engine.updating():
                mask = batch["response_mask"]
                log_prob = self._log_prob(batch)
                gap = ((log_prob - batch["rollout_log_probs"]) * mask).abs().max()
                (-(log_prob * batch["token_level_scores"].sum(-1, keepdim=True) * mask).sum()).backward()
                optimizer.step()
                optimizer.zero_grad()
            self.history.append({"step": step, "gap": gap.item(), "rows": float(len(mask)), **metrics})
        self.daemon.set_up_data_and_server(tasks, is_train=False)
        self.daemon.run_until_all_finished(verbose=False)
        self.history.append({"step": 3, **self.daemon.get_test_metrics()})

    def _log_prob(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, R) log-probs of the responses, from one forward over padded rows."""
        inputs = batch["input_ids"], batch["attention_mask"], batch["position_ids"]
        logits = self.served["main_llm"].model(*inputs, use_cache=False).logits
        before_each = logits[:, -batch["responses"].shape[1] - 1 : -1]
        return before_each.log_softmax(-1).gather(-1, batch["responses"][:, :, None])[:, :, 0]


@pytest.fixture(scope="module")
def algorithm(tmp_path_factory: pytest.TempPathFactory) -> agl.VERL:
    directory = tmp_path_factory.mktemp("own")
    found = agl.VERL(config(make_model(directory / "model")), trainer_cls=PlainTrainer)
    agl.Trainer(algorithm=found, n_runners=4, run_dir=directory / "run").fit(letters_agent, TASKS)
    return found


def test_padded_rows_have_the_log_probs_that_were_recorded_before_and_after_an_update(algorithm: agl.VERL) -> None:
    first, second, _ = algorithm.history
    assert first["rows"] == second["rows"] == 2 * len(TASKS)
    assert first["gap"] < 1e-4
    assert second["gap"] < 1e-4, "the engine serves the weights that the loop trained"


def test_validation_runs_each_task_once(algorithm: agl.VERL) -> None:
    assert algorithm.history[-1]["val/n_rollouts"] == len(TASKS)
    assert 0.0 <= algorithm.history[-1]["val/reward"] <= 1.0


def test_the_run_has_its_report(algorithm: agl.VERL) -> None:
    assert algorithm.run_dir is not None
    assert {"summary.json", "store.sqlite"} <= {path.name for path in Path(algorithm.run_dir).iterdir()}
