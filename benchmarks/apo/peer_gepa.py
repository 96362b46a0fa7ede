"""Drives gepa 0.1.4 on the bed, over HTTP; runs in `.peers/gepa`.

    .peers/gepa/bin/python benchmarks/apo/peer_gepa.py --endpoint http://127.0.0.1:8100 --family claims --seed 0

`--settings` are arguments of `gepa.optimize`, and `val`: how many validation tasks are scored (the others go to the
training set). The prompts at a budget are those that a run with that `max_metric_calls` returns: gepa looks at its
budget between iterations only, so it may have spent some rollouts more; `spent` has them, nothing is held against it.
"""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import gepa
from bed.answers import verdict
from common import Record, arguments
from gepa.core.adapter import EvaluationBatch

ASKS = {"prompt": "Answer the case.", "planner": "Make the plan.", "writer": "Write the answer."}


class Endpoint:
    """Calls over one connection."""

    def __init__(self, base_url: str) -> None:
        self.path = urllib.parse.urlsplit(base_url).path + "/chat/completions"
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(base_url).netloc)
        self.connection.connect()
        # Head and body are sent apart; without this the second waits 40 ms for the first one's acknowledgement.
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, model: str, messages: Sequence[Mapping[str, str]], temperature: float) -> str:
        """One call; the reply's text."""
        body = json.dumps({"model": model, "messages": messages, "temperature": temperature})
        self.connection.request("POST", self.path, body, {"content-type": "application/json"})
        return json.loads(self.connection.getresponse().read())["choices"][0]["message"]["content"]


class Adapter:
    """The agent as gepa wants it: tasks in, scores and traces out."""

    propose_new_texts = None

    def __init__(self, record: Record, endpoint: Endpoint) -> None:
        self.record = record
        self.endpoint = endpoint

    def evaluate(
        self, batch: list[Any], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        """Run a batch."""
        runs = [self._run(task, candidate) for task in batch]
        scores = [run["reward"] for run in runs]
        return EvaluationBatch(outputs=runs, scores=scores, trajectories=runs if capture_traces else None)

    def _run(self, task: dict[str, Any], candidate: dict[str, str]) -> dict[str, Any]:
        world, outputs, said = self.record.world, {}, ""
        try:
            for role in world.family.components:
                said = self._ask("sim-task", candidate[role].format(case=task["case"], plan=said), ASKS[role])
                outputs[role] = said
        except (KeyError, IndexError, ValueError) as error:
            return {"task": task, "outputs": outputs, "reward": 0.0, "feedback": f"{type(error).__name__}: {error}"}
        if world.family.judge:
            feedback = self._ask("sim-judge", "Grade the answer from 0 to 1.", f"{task['case']}\nAnswer: {said}")
            reward = float(feedback.split()[1].rstrip("."))
            return {"task": task, "outputs": outputs, "reward": reward, "feedback": feedback}
        found = verdict(world, world.task(self.record.seed, task["number"]), said)
        return {"task": task, "outputs": outputs, "reward": found.reward, "feedback": found.feedback}

    def _ask(self, model: str, system: str, user: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return self.endpoint.ask(model, messages, 1.0 if self.record.world.family.sampled else 0.0)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch[Any, Any], components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """What the reflecting model reads of each rollout."""
        return {
            name: [
                {
                    "Inputs": {"case": run["task"]["case"]},
                    "Generated Outputs": run["outputs"].get(name, ""),
                    "Feedback": f"The score is {run['reward']:.2f}. {run['feedback']}".strip(),
                }
                for run in eval_batch.trajectories or []
            ]
            for name in components_to_update
        }


class Watch:
    """Asked before each iteration whether to stop: notes what gepa would return if it did."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.open = list(record.budgets)

    def __call__(self, state: Any) -> bool:
        best = max(
            range(len(state.program_candidates)), key=lambda n: (_mean(state.prog_candidate_val_subscores[n]), -n)
        )
        while self.open and state.total_num_evals >= self.open[0]:
            budget = self.open.pop(0)
            self.record.best(budget, state.program_candidates[best], state.total_num_evals)
        return not self.open


def _mean(scores: Mapping[Any, float]) -> float:
    return sum(scores.values()) / len(scores)


class Quiet:
    """gepa's log, unread."""

    def log(self, *args: object, **kwargs: object) -> None:
        """Nothing."""


def main() -> None:
    args = arguments(__doc__ or "")
    record = Record(args)
    settings = {"reflection_minibatch_size": 3, **args.settings}
    count = settings.pop("val", 32)
    train, val = record.train() + record.val()[count:], record.val()[:count]
    endpoint = Endpoint(record.base_url)
    made = 0

    def reflect(prompt: str | list[dict[str, Any]]) -> str:
        nonlocal made
        made += 1
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return endpoint.ask("sim-reflect", messages, 1.0)

    gepa.optimize(
        seed_candidate=dict(record.world.start),
        trainset=train,
        valset=val,
        adapter=Adapter(record, endpoint),
        reflection_lm=reflect,
        stop_callbacks=Watch(record),
        logger=Quiet(),
        seed=args.seed,
        **settings,
    )
    record.report(llm_calls=made)


if __name__ == "__main__":
    main()
