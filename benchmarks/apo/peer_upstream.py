"""Drives the APO of Agent-Lightning 0.3.0 on the bed; runs in `.peers/agentlightning-apo`.

    python benchmarks/apo/peer_upstream.py --endpoint http://127.0.0.1:8100 --family claims

`--settings` are arguments of its `APO`, and: `shared`: one prompt for all roles, since it tunes only one (default: the
first role's; the others stay as they are); `val`: how many validation tasks there are (the others join the training
set); `beam_rounds` may be "fill": as many as the largest budget pays for.

With `--wall` all is as installed. Without, three things that cost time and change no decision are shortened: its sleep
of 2 s while a batch is under way and its runner's of 5 s; POML's node process for each text (`poml_plain.py`, compared
with the real one by `poml_plain.py --check`); a pydantic adapter that it builds anew for each message.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import sys
import types
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("OPENAI_API_KEY", "none")

from agent import Work, one_prompt
from bed.families import SHARED
from common import Record, arguments
from openai import AsyncOpenAI
from poml_plain import Skeletons

import agentlightning as agl
from agentlightning.adapter import messages as adapter_module
from agentlightning.algorithm.apo import apo as apo_module

QUICK_POLL = 0.005


class Watched(apo_module.APO):
    """Counts rollouts, and notes the best prompt after each of upstream's own updates."""

    record: Record
    name: str
    rollouts = 0
    llm_calls = 0

    async def evaluate_prompt_on_batch(
        self, prompt: Any, resource_name: Any, dataset: Any, mode: Any, **more: Any
    ) -> Any:
        found = await super().evaluate_prompt_on_batch(prompt, resource_name, dataset, mode, **more)
        self.rollouts += len(dataset)
        return found

    async def compute_textual_gradient(self, *args: Any, **more: Any) -> Any:
        self.llm_calls += 2
        return await super().compute_textual_gradient(*args, **more)

    async def _update_best_prompt(self, *args: Any, **more: Any) -> None:
        await super()._update_best_prompt(*args, **more)
        self.record.best(self.rollouts, {self.name: self.get_best_prompt().template})


def rounds_within(budget: int, settings: dict[str, Any], val: int) -> int:
    """How many rounds of its loop cost at most so many rollouts."""
    width, branch = settings.get("beam_width", 4), settings.get("branch_factor", 4)
    children, batch = width * branch, min(val, settings.get("val_batch_size", 16))
    spent, rounds, beam = val * settings.get("run_initial_validation", True), 0, 1
    while True:
        spent += children * settings.get("gradient_batch_size", 4) + (beam + children) * batch + val
        if spent > budget:
            return max(rounds, 1)
        rounds, beam = rounds + 1, min(width, beam + children)


def shorten() -> None:
    """See the head of this file."""

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, QUICK_POLL))

    quick = types.SimpleNamespace(**{name: getattr(asyncio, name) for name in dir(asyncio)})
    quick.sleep = sleep
    apo_module.asyncio = quick
    adapter_module.TypeAdapter = functools.cache(adapter_module.TypeAdapter)
    apo_module.poml = types.SimpleNamespace(poml=Skeletons.load().render)


def trainer(apo: Any, start: dict[str, Any], runners: int, wall: bool) -> Any:
    """As a user would have it, or everything in one process."""
    common = {"algorithm": apo, "initial_resources": start, "adapter": agl.TraceToMessages()}
    if wall:
        return agl.Trainer(n_runners=runners, **common)
    # With its default, the runner in the main thread, `fit` does not return.
    strategy = agl.SharedMemoryExecutionStrategy(n_runners=runners, main_thread="algorithm")
    tracer = agl.AgentOpsTracer()
    runner = agl.LitAgentRunner(tracer, poll_interval=QUICK_POLL, interval_jitter=0.0)
    return agl.Trainer(n_runners=runners, strategy=strategy, tracer=tracer, runner=runner, **common)


def main() -> None:
    args = arguments(__doc__ or "")
    logging.disable(logging.CRITICAL)
    record = Record(args)
    settings = dict(args.settings)
    shared, count = settings.pop("shared", False), settings.pop("val", 32)
    world = record.world
    name = SHARED if shared and len(world.family.components) > 1 else world.family.components[0]
    text = world.shared_start if name == SHARED else world.start[name]
    if settings.get("beam_rounds") == "fill":
        settings["beam_rounds"] = rounds_within(max(record.budgets), settings, count)
    if not args.wall:
        shorten()
    random.seed(args.seed)
    apo = Watched(
        AsyncOpenAI(base_url=record.base_url, api_key="none"),
        gradient_model="sim-critic",
        apply_edit_model="sim-editor",
        **settings,
    )
    apo.record, apo.name = record, name
    start = {name: agl.PromptTemplate(template=text, engine="f-string")}
    work = Work(world, record.seed, record.base_url)
    # Its output goes elsewhere: standard output is the figures'.
    figures, sys.stdout = sys.stdout, sys.stderr
    trainer(apo, start, args.runners, args.wall).fit(
        one_prompt(work),
        train_dataset=record.train() + record.val()[count:],
        val_dataset=record.val()[:count],
    )
    sys.stdout = figures
    record.report(rollouts=apo.rollouts, llm_calls=apo.llm_calls, agent_s=work.seconds)
    sys.stdout.flush()
    os._exit(0)  # its threads outlive it


if __name__ == "__main__":
    main()
