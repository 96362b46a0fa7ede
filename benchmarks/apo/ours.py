"""Drives `agl.APO` on the bed.

    python benchmarks/apo/ours.py --endpoint http://127.0.0.1:8100 --family claims --settings '{"preset": "auto"}'

`--settings` are arguments of `APO`, and: `once`: one run with the largest budget, whose rounds give the figures of the
smaller ones (default: a run for each budget, with that budget, as a user would do it); `shared`: one prompt for all
roles; `sqlite`: the store is a file; `val`: how many validation tasks there are (the others join the training set).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from agent import Work, one_prompt, own_prompts
from bed.families import SHARED
from common import Record, arguments
from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.algorithm.apo import APO


class Timed(httpx.AsyncHTTPTransport):
    """A transport that knows how long any of its calls was under way."""

    busy = 0
    since = seconds = 0.0
    calls = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.busy == 0:
            self.since = time.perf_counter()
        self.busy += 1
        self.calls += 1
        try:
            response = await super().handle_async_request(request)
            await response.aread()
            return response
        finally:
            self.busy -= 1
            if self.busy == 0:
                self.seconds += time.perf_counter() - self.since


class Costs(dict[str, float]):
    """Sums over the runs."""

    def add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self[name] = self.get(name, 0.0) + amount


def run(record: Record, budget: int, runners: int, settings: dict[str, Any], costs: Costs) -> APO:
    """One run."""
    settings = dict(settings)
    shared, on_disk, count = (settings.pop(name, None) for name in ("shared", "sqlite", "val"))
    world, timed = record.world, Timed()
    work = Work(world, record.seed, record.base_url)
    if shared:
        start = {SHARED: agl.PromptTemplate(template=world.shared_start, engine="f-string")}
    else:
        start = {name: agl.PromptTemplate(template=text, engine="f-string") for name, text in world.start.items()}
    reflecting = settings.pop("gradient_model", None) or _critic_of(settings)
    apo = APO(
        client=AsyncOpenAI(base_url=record.base_url, api_key="none", http_client=httpx.AsyncClient(transport=timed)),
        gradient_model=reflecting,
        apply_edit_model="sim-editor",
        seed=record.seed,
        budget=budget,
        **settings,
    )
    train, val = record.train() + record.val()[count:] if count else record.train(), record.val()[:count]
    with tempfile.TemporaryDirectory(prefix="agl-bench-apo-") as folder:
        trainer = agl.Trainer(
            algorithm=apo,
            n_runners=runners,
            initial_resources=start,
            tracer=agl.OtelTracer(instrument=["openai"]),
            store=None if on_disk else agl.InMemoryLightningStore(),
            run_dir=Path(folder) / "run",
        )
        began, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            trainer.fit(own_prompts(work) if len(start) > 1 else one_prompt(work), train, val_dataset=val)
        wall = time.perf_counter() - began
    assert apo.state is not None
    costs.add(
        fit_s=wall,
        fit_cpu_s=time.process_time() - cpu,
        rollouts=apo.state.ledger.spent.rollouts,
        llm_calls=timed.calls,
        agent_s=work.seconds,
        llm_s=timed.seconds,
        overhead_s=wall - work.seconds / runners - timed.seconds,
    )
    return apo


def _critic_of(settings: dict[str, Any]) -> str:
    """The model that the plan's proposer asks: a critic, or one that does both."""
    from agentlightning.algorithm.apo.plan import PRESETS

    proposer = settings.get("proposer") or PRESETS[settings.get("preset") or "documented"]["proposer"]
    name = proposer if isinstance(proposer, str) else proposer.get("name", "reflect")
    return "sim-critic" if name == "critique" else "sim-reflect"


def main() -> None:
    logging.disable(logging.WARNING)
    os.environ.setdefault("OPENAI_API_KEY", "none")
    args = arguments(__doc__ or "")
    record, costs = Record(args), Costs()
    settings = dict(args.settings)
    if settings.pop("once", False):
        apo = run(record, max(record.budgets), args.runners, settings, costs)
        assert apo.state is not None
        texts = {candidate.id: candidate.texts for candidate in apo.state.candidates}
        for each in apo.state.rounds:
            record.best(each.rollouts, texts[each.best])
    else:
        for budget in record.budgets:
            apo = run(record, budget, args.runners, settings, costs)
            assert apo.state is not None
            assert apo.state.best is not None
            record.best(budget, apo.state.best.texts, apo.state.ledger.spent.rollouts)
    record.report(**costs)


if __name__ == "__main__":
    main()
