"""`SteppedBatches`: the blocking methods of `AgentModeDaemon`, for training loops of a user's own.

`start`, then for each batch `set_up_data_and_server`, `run_until_all_finished`, `get_train_data_batch` (or
`get_test_metrics`) and `clear_data_and_server`; `stop` at the end. They run the daemon's coroutines on an event loop in
a thread, so that it does not matter whether the caller runs one. Mixed into `AgentModeDaemon`; makes tensors with
`batches`, which is imported late because it brings torch.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from agentlightning.adapter import EpisodeAdapter
from agentlightning.store.base import LightningStore
from agentlightning.types import ConfigError, Dataset, DatasetError, NamedResources, RolloutMode
from agentlightning.utils.loop_thread import LoopThread

from .under_way import Batch, OnProgress

if TYPE_CHECKING:
    import torch

    from agentlightning.llm_proxy import LLMProxy

    from .sample import Sample


class SteppedBatches(ABC):
    """Batches of tasks, one step at a time.

    Args:
        n: Rollouts of each training task; validation runs one.
        resources: What agents are given. `None`: the gateway, under the name of the first policy.
        llm_proxy: The gateway that `server_addresses` are put behind. Started by `start` if it does not run.
        model: What agents call the model behind the gateway; default the first that it serves. Needed for
            `server_addresses`, where it also is the model's name at the servers.
        pad_token_id: What rows are filled with.
        fill: Reward of a rollout that gave none.
    """

    _store: LightningStore
    _adapters: Mapping[str, EpisodeAdapter]

    def __init__(
        self,
        *,
        n: int,
        resources: NamedResources | None,
        llm_proxy: LLMProxy | None,
        model: str | None,
        pad_token_id: int,
        fill: float,
    ) -> None:
        self._n = n
        self._resources = resources
        self._proxy = llm_proxy
        self._model = model
        self._pad_token_id = pad_token_id
        self._fill = fill
        self._thread: LoopThread | None = None
        self._started_proxy = False
        self._steps = 0
        self._batch: Batch | None = None

    @abstractmethod
    async def run_batch(
        self,
        tasks: Sequence[tuple[int, Any]],
        *,
        n: int,
        mode: RolloutMode,
        step: int,
        resources_id: str,
        on_progress: OnProgress | None = None,
    ) -> list[Sample]:
        """Run every task `n` times and wait for all of them, see `AgentModeDaemon`."""

    # -- the documented steps ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread that batches run in, and the gateway where one was given. Twice does no harm."""
        if self._thread is None:
            self._thread = LoopThread("agl-batches")
        if self._proxy is not None and not self._proxy.is_running():
            self._thread.run(self._proxy.start())
            self._started_proxy = True

    def stop(self) -> None:
        """Undo `start`; what is not finished is given up. Twice does no harm."""
        self.clear_data_and_server()
        if self._thread is None:
            return
        if self._proxy is not None and self._started_proxy:
            self._thread.run(self._proxy.stop())
            self._started_proxy = False
        self._thread.stop()
        self._thread = None

    def set_up_data_and_server(
        self,
        data: Mapping[str, Any] | Dataset[Any],
        server_addresses: Sequence[str] | None = None,
        is_train: bool = True,
    ) -> None:
        """Queue a batch: its rollouts begin at once.

        Args:
            data: The tasks; or, as verl has them, columns by name, each a list or an array with a value for each task.
            server_addresses: `host:port` of servers with OpenAI's interface, which the gateway then calls. `None`:
                nothing changes.
            is_train: Run each task `n` times and sample as in training, or once and as in validation.

        Raises:
            ConfigError: `server_addresses` without a gateway or a model's name, or nothing for agents to call.
            DatasetError: columns of different lengths.
            RuntimeError: the batch before was not cleared.
        """
        if self._batch is not None:
            raise RuntimeError("there is a batch already; call `clear_data_and_server` first")
        self.start()
        assert self._thread is not None
        tasks = tasks_of(data)
        if server_addresses is not None:
            self._serve(server_addresses)
        resources = self._resources_now()
        self._steps += is_train

        def run(on_progress: OnProgress) -> Coroutine[Any, Any, list[Sample]]:
            return self._run(tasks, resources, is_train, on_progress)

        self._batch = Batch(self._thread, run, len(tasks) * (self._n if is_train else 1), is_train=is_train)

    def run_until_all_finished(self, verbose: bool = True) -> None:
        """Wait until each rollout of the batch has ended, well or not.

        Args:
            verbose: Show how far it is.

        Raises:
            RuntimeError: there is no batch, or another thread cleared it.
            DatasetError: a task can't be stored.
        """
        self._there().wait(verbose)

    def get_train_data_batch(
        self,
        max_prompt_length: int,
        max_response_length: int,
        device: str | torch.device,
        *,
        policy: str | None = None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """The finished batch as padded tensors: each of the B turns is a row, each with its rollout's final reward.

        A prompt that is longer than P keeps its last P tokens, a response longer than R its first R; both are counted
        in the metrics (`training/n_dropped_triplets`, `training/n_truncated_triplets`). End tokens are tokens like any:
        attended to and trained, also where they are the id that rows are filled with. Groups of which a rollout failed
        through no fault of the policy's are left out.

        Args:
            max_prompt_length: P, in tokens.
            max_response_length: R, in tokens.
            device: Where the tensors lie.
            policy: Whose turns; default the first policy's.

        Returns:
            Metrics under `training/`, and beside them these tensors. int64:
            `prompts` (B, P) padded on the left; `responses` (B, R) padded on the right;
            `input_ids`, `attention_mask`, `position_ids` (B, P + R), where positions count tokens and not padding;
            `response_mask` (B, R);
            `uid` (B,) which task, `rollout_index` (B,) which rollout and `turn_index` (B,) which turn of it.
            float32:
            `token_level_scores` (B, R) the reward on the last token of the response, 0 elsewhere;
            `rollout_log_probs` (B, R) as recorded when the tokens were sampled, if that is known of all rows.
            bool:
            `is_drop_mask` (B,) rows not to be trained on: their prompt was cut, or their response is empty.

        Raises:
            RuntimeError: there is no finished training batch.
            ConfigError: no policy has this name.
            TrainingError: no row is left.
        """
        from .batches import Lengths, padded_batch

        name = next(iter(self._adapters)) if policy is None else policy
        if name not in self._adapters:
            raise ConfigError(f"`policy` is {name!r}, and there are {sorted(self._adapters)}; name one of them")
        return padded_batch(
            self._there().samples(is_train=True),
            name,
            Lengths(max_prompt_length, max_response_length, self._pad_token_id),
            fill=self._fill,
            device=device,
        )

    def get_test_metrics(self) -> dict[str, float]:
        """Metrics of a finished validation: `val/reward`, `val/turn_count`, ... and verl's `val-core/...`.

        Raises:
            RuntimeError: there is no finished validation batch.
        """
        from .metrics import val_metrics

        samples = self._there().samples(is_train=False)
        responses = [len(turn.call.response_ids) for sample in samples for turn in sample.episode.turns]
        return {
            **val_metrics(samples, self._fill),
            "val/n_rollouts_w_trace": float(sum(bool(sample.episode.turns) for sample in samples)),
            "val/n_rollouts_w_reward": float(sum(sample.reward is not None for sample in samples)),
            "val/sum_response_length": float(sum(responses)),
        }

    def clear_data_and_server(self) -> None:
        """Forget the batch; rollouts of it that have not ended are cancelled. From any thread."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.give_up()

    # -- how ----------------------------------------------------------------------------------------------------------

    def _there(self) -> Batch:
        if self._batch is None:
            raise RuntimeError("there is no batch; call `set_up_data_and_server` first")
        return self._batch

    async def _run(
        self, tasks: Sequence[Any], resources: NamedResources, is_train: bool, on_progress: OnProgress
    ) -> list[Sample]:
        resources_id = (await self._store.update_resources("rs-verl", resources)).resources_id
        mode: RolloutMode = "train" if is_train else "val"
        try:
            return await self.run_batch(
                list(enumerate(tasks)),
                n=self._n if is_train else 1,
                mode=mode,
                step=self._steps,
                resources_id=resources_id,
                on_progress=on_progress,
            )
        except asyncio.CancelledError:
            await self._withdraw(mode, self._steps)
            raise

    async def _withdraw(self, mode: RolloutMode, step: int) -> None:
        """Cancel what is left of a batch in the store: runners would spend the next one's time on it."""
        left = await self._store.query_rollouts(status_in=["queuing", "preparing", "running", "requeuing"])
        for rollout in left:
            if rollout.mode == mode and (rollout.metadata or {}).get("step") == step:
                await self._store.update_rollout(rollout.rollout_id, status="cancelled")

    def _serve(self, addresses: Sequence[str]) -> None:
        if self._proxy is None or self._model is None:
            raise ConfigError(
                "`server_addresses` are put behind a gateway; make the daemon with `llm_proxy`, and with the `model` "
                "that they serve"
            )
        entries = [
            {
                "model_name": self._model,
                "litellm_params": {"model": f"hosted_vllm/{self._model}", "api_base": f"http://{address}/v1"},
            }
            for address in addresses
        ]
        self._proxy.update_model_list(entries)

    def _resources_now(self) -> NamedResources:
        if self._resources is not None:
            return self._resources
        if self._proxy is None:
            raise ConfigError("agents have no model to call; make the daemon with `resources` or with `llm_proxy`")
        return {next(iter(self._adapters)): self._proxy.as_resource(model=self._model)}


def tasks_of(data: Mapping[str, Any] | Dataset[Any]) -> list[Any]:
    """The tasks one by one: rows of `data`, or of the table that its columns make."""
    if not isinstance(data, Mapping):
        return [data[index] for index in range(len(data))]
    columns = {str(name): _plain(column) for name, column in cast("Mapping[str, Any]", data).items()}
    lengths = {name: len(column) if isinstance(column, list) else None for name, column in columns.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        raise DatasetError(f"the columns of `data` must be lists of one length, and theirs are {lengths}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists of Python's own numbers, which the store can hold."""
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    return value
