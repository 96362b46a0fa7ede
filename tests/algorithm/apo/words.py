"""A job small enough for a test: an agent is rewarded for the words that its prompt holds, critic and editor add words.

Run as `python -m tests.algorithm.apo.words RUN_DIR ENDPOINT [--resume] [--crash-after N] [--runners N]`; tests import
it as well. The agent notes every rollout in the file `paid` beside the run directory: what was run, was paid.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import openai

import agentlightning as agl

WORDS = ("amber", "birch", "coral", "dune", "ember", "fjord")
START = "Be nice. {name}"
BUDGET = 120


def task(number: int) -> dict[str, Any]:
    """Each needs two of the words."""
    return {"number": number, "needs": [WORDS[number % 6], WORDS[(number * 5 + 1) % 6]]}


TRAIN, VAL, TEST = [task(n) for n in range(12)], [task(n) for n in range(20, 28)], [task(n) for n in range(40, 50)]


def grade(text: str, needs: list[str]) -> float:
    return sum(word in text for word in needs) / len(needs)


@agl.rollout
def agent(task: Any, prompt_template: agl.PromptTemplate) -> float:
    """Its reward is the share of the words it needs, and it says which ones are missing."""
    text = prompt_template.format(name="Ann")
    if file := os.environ.get("PAID"):
        with Path(file).open("a") as paid:
            paid.write(json.dumps([text, task["number"]]) + "\n")
    missing = [word for word in task["needs"] if word not in text]
    if missing:
        agl.emit_message(f"lacks: {missing[0]}")
    return grade(text, task["needs"])


def critic_and_editor(body: dict[str, Any]) -> str:
    """Two models of an endpoint: one reads what is lacking, one adds it, and now and then loses the placeholder."""
    said = body["messages"][-1]["content"]
    if body["model"] == "critic":
        lacking = sorted(set(re.findall(r"lacks: (\w+)", said)))
        return f"Add the word {lacking[body['seed'] % len(lacking)]}." if lacking else "Nothing is wrong."
    prompt = said.split("<prompt>")[1].split("</prompt>")[0].strip()
    found = re.search(r"Add the word (\w+)", said)
    new = f"{prompt} {found.group(1)}" if found else prompt
    return f"<new_prompt>{new.replace('{name}', '') if body['seed'] % 7 == 0 else new}</new_prompt>"


class CrashAfter(agl.Hook):
    """Kills the process without warning when so many rollouts have ended."""

    def __init__(self, count: int) -> None:
        self.left = count

    async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def make(endpoint: str, **changes: Any) -> agl.APO:
    settings: dict[str, Any] = {"beam_width": 2, "branch_factor": 2, "beam_rounds": 3, "val_batch_size": 4}
    settings |= {"budget": BUDGET, "test_dataset": TEST, "seed": 3}
    apo = agl.APO(
        openai.AsyncOpenAI(base_url=endpoint, api_key="sk-secret"),
        gradient_model="critic",
        apply_edit_model="editor",
        **settings | changes,
    )
    apo.set_initial_resources({"prompt": agl.PromptTemplate(template=START)})
    return apo


def tune(
    run_dir: Path,
    endpoint: str,
    *,
    resume: bool = False,
    crash_after: int | None = None,
    runners: int = 4,
    **changes: Any,
) -> agl.APO:
    apo = make(endpoint, **changes)
    hooks = [] if crash_after is None else [CrashAfter(crash_after)]
    trainer = agl.Trainer(algorithm=apo, n_runners=runners, run_dir=run_dir, hooks=hooks)
    trainer.fit(agent, TRAIN, val_dataset=VAL, resume=resume)
    return apo


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("endpoint")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--crash-after", type=int)
    parser.add_argument("--runners", type=int, default=4)
    args = parser.parse_args()
    tune(args.run_dir, args.endpoint, resume=args.resume, crash_after=args.crash_after, runners=args.runners)


if __name__ == "__main__":
    main()
