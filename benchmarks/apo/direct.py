"""Our optimiser on the bed without HTTP, store and runners: for choosing settings, never for figures.

    python benchmarks/apo/direct.py '{"preset": "auto"}' '{"preset": "gepa"}' [--families NAME ...] [--seeds N]

The same loop, strategies, ledger and models, called as functions: some fifty times faster, with the same lineage as
`ours.py` (a test holds that). Families and seeds are those for tuning. Prints the mean gain of each settings at each
budget, and the differences to the first in pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import table
from bed.answers import verdict
from bed.catalog import TUNING, TUNING_SEEDS, world
from bed.families import TEST, TRAIN, VAL, World
from bed.server import Run, reply
from common import BUDGETS

from agentlightning.algorithm.apo import APO, Budget
from agentlightning.algorithm.apo.budget import Ledger, Usage
from agentlightning.algorithm.apo.candidate import Candidate, content_key
from agentlightning.algorithm.apo.loop import optimise
from agentlightning.algorithm.apo.outcome import Outcome
from agentlightning.algorithm.apo.plan import PRESETS
from agentlightning.algorithm.apo.state import State
from agentlightning.algorithm.apo.trials import Key, Trials
from agentlightning.algorithm.apo.writer import Reply
from agentlightning.algorithm.apo.written import Request
from agentlightning.types import PromptTemplate
from agentlightning.utils.seeds import stable_seed

ASKS = {"prompt": "Answer the case.", "planner": "Make the plan.", "writer": "Write the answer."}


class DirectTrials(Trials):
    """Rollouts as function calls."""

    world: World
    noise: int
    run_of: Run
    numbers: Mapping[str, Sequence[int]]

    async def _pay(self, todo: dict[Key, Candidate]) -> None:
        self._ledger.rollouts(len(todo))
        for (key, place), candidate in todo.items():
            outcome = self._rollout(candidate, place)
            self._ledger.rollout_done(outcome)
            self._done.setdefault(key, {})[place] = outcome

    def _rollout(self, candidate: Candidate, place: Any) -> Outcome:
        task = self.world.task(self.noise, self.numbers[place.split][place.task])
        what = {"number": task.number, "case": task.text}
        name = f"{candidate.key} {place}"
        said, conversations = "", list[dict[str, Any]]()
        try:
            for role in self.world.family.components:
                prompt = candidate.texts[role].format(case=task.text, plan=said)
                said = self._ask(conversations, "sim-task", prompt, ASKS[role])
        except (KeyError, IndexError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            return Outcome(place, name, "failed", 0.0, False, what, said, conversations=conversations)
        found = verdict(self.world, task, said)
        feedback = () if self.world.family.judge or not found.feedback else (found.feedback,)
        reward = found.reward
        if self.world.family.judge:
            said = self._ask(
                conversations, "sim-judge", "Grade the answer from 0 to 1.", f"{task.text}\nAnswer: {said}"
            )
            reward = float(said.split()[1].rstrip("."))
        return Outcome(place, name, "succeeded", reward, True, what, "", feedback, conversations, len(conversations))

    def _ask(self, conversations: list[dict[str, Any]], model: str, system: str, user: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {"temperature": 1.0 if self.world.family.sampled else 0.0}
        said = reply(self.world, self.noise, self.run_of, model, messages, body)
        assert said is not None
        conversations.append({"messages": [*messages, {"role": "assistant", "content": said}], "tools": None})
        return said


class DirectWriter:
    """Critic and editor as function calls, with the seeds that `Writer` sends."""

    def __init__(self, here: World, noise: int, run: Run, ledger: Ledger, seed: int) -> None:
        self.world, self.noise, self.run, self.ledger = here, noise, run, ledger
        self.setting = {"seed": seed, "temperature": 1.0, "max_tokens": None}

    async def ask(self, requests: Sequence[Request]) -> list[Reply | None]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply:
        seed = stable_seed(content_key([*request, self.setting]), 0) % 2**31
        body = {"seed": seed, "temperature": 1.0}
        text = reply(self.world, self.noise, self.run, request.model, request.messages, body)
        self.ledger.call_known(request.model, Usage())
        assert text is not None
        return Reply(text.strip(), False)


def run(name: str, seed: int, budget: int, settings: Mapping[str, Any]) -> State:
    """One run."""
    here = world(name)
    apo = APO(client=object(), gradient_model=critic_of(settings), apply_edit_model="sim-editor", seed=seed, **settings)
    start = {role: PromptTemplate(template=text, engine="f-string") for role, text in here.start.items()}
    numbers = {"train": TRAIN, "val": VAL}
    ledger, shared = Ledger(Budget(rollouts=budget)), Run()
    data: Any = {s: [{"number": n, "case": here.task(seed, n).text} for n in each] for s, each in numbers.items()}
    trials = DirectTrials(None, dict(start), data, ledger, seed=seed)  # type: ignore[arg-type]
    trials.world, trials.noise, trials.run_of, trials.numbers = here, seed, shared, numbers
    writer: Any = DirectWriter(here, seed, shared, ledger, seed)
    first = Candidate("v0", dict(here.start))
    state = State(start, trials, writer, ledger, seed, [first])
    asyncio.run(optimise(state, apo.plan))
    return state


def critic_of(settings: Mapping[str, Any]) -> str:
    """The model that the plan's proposer asks: a critic, or one that does both."""
    own, preset = settings.get("proposer"), PRESETS[settings.get("preset") or "documented"]["proposer"]
    proposer = own if isinstance(own, str) or (own and "name" in own) else preset
    name = proposer if isinstance(proposer, str) else proposer["name"]
    return "sim-critic" if name == "critique" else "sim-reflect"


def gain(job: tuple[str, int, int, str]) -> float:
    """Of one run, exact."""
    name, seed, budget, settings = job
    with contextlib.redirect_stdout(sys.stderr):
        state = run(name, seed, budget, json.loads(settings))
    best = state.best or state.candidates[0]
    return world(name).gain(best.texts, world(name).tasks(seed, TEST))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="+", help="JSON: arguments of `APO`")
    parser.add_argument("--families", nargs="+", default=[family.name for family in TUNING], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=len(TUNING_SEEDS))
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    places = list(itertools.product(args.families, TUNING_SEEDS[: args.seeds]))
    first: dict[int, list[float]] = {}
    with ProcessPoolExecutor(args.jobs) as pool:
        for settings in args.settings:
            cells: list[str] = []
            for budget in args.budgets:
                gains = list(pool.map(gain, [(*place, budget, settings) for place in places]))
                base = first.setdefault(budget, gains)
                ahead, behind, _ = table.pairs(
                    dict(zip(places, gains, strict=True)), dict(zip(places, base, strict=True))
                )
                against = f" ({ahead}:{behind})" if base is not gains else ""
                cells.append(f"{budget}: {statistics.fmean(gains):.3f}{against}")
            print("  ".join(cells), settings, flush=True)


if __name__ == "__main__":
    main()
