"""Upstream's five POML texts without POML: rendered once with marks, then filled in. Used by `peer_upstream.py`.

POML starts a node process for each text, 0.7 s and more. Here each text is rendered by the real POML once for each
number of experiments, with marks for the values, and kept in `runs/bench-apo/poml.json`; a text is then made by putting
values in place of marks. Run with `--check`, this compares such texts with real ones, character by character.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import poml

FILE = Path(__file__).parents[2] / "runs" / "bench-apo" / "poml.json"
REWARD = 1111.5
"""Its number and the experiment's, as a mark that POML prints as a number."""


class Skeletons:
    """The texts with marks, by file name and number of experiments."""

    def __init__(self, texts: dict[str, Any]) -> None:
        self.texts = texts

    @classmethod
    def load(cls) -> Skeletons:
        """Those of earlier runs."""
        return cls(json.loads(FILE.read_text()) if FILE.exists() else {})

    def render(self, file: Path, context: dict[str, Any], format: str = "openai_chat") -> dict[str, Any]:
        """What `poml.poml` returns, for upstream's own files."""
        runs = context.get("experiments", [])
        messages = self._skeleton(Path(file), len(runs))
        return {"messages": [{**each, "content": _filled(each["content"], context, runs)} for each in messages]}

    def _skeleton(self, file: Path, count: int) -> list[dict[str, str]]:
        key = f"{file.name} {count}"
        if key not in self.texts:
            marks = [
                {"status": f"@s{n}@", "final_reward": REWARD + n, "messages": [f"@m{n}@"], "spans": [{"@": n}]}
                for n in range(count)
            ]
            context = {"prompt_template": "@prompt@", "critique": "@critique@", "experiments": marks}
            self.texts[key] = poml.poml(file, context=context, format="openai_chat")["messages"]
            FILE.parent.mkdir(parents=True, exist_ok=True)
            FILE.write_text(json.dumps({**self.load().texts, **self.texts}))
        return self.texts[key]


def _filled(text: str, context: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    for n, run in enumerate(runs):
        reward = "" if run["final_reward"] is None else _js(run["final_reward"])
        text = text.replace(f"@s{n}@", str(run["status"]))
        text = re.sub(rf" ?{REWARD + n:.1f}".replace(".", r"\."), f" {reward}" if reward else "@none@", text)
        text = text.replace("@none@.", " .").replace("@none@", "")
        text = text.replace(f'["@m{n}@"]', _js(run["messages"]))
        spans = "\n".join(map(_js, run["spans"]))
        mark = f'{{"@":{n}}}'
        text = text.replace(mark, spans) if spans else text.replace(f"\n\n{mark}", "")
    text = text.replace("@prompt@", context["prompt_template"])
    return text.replace("@critique@", context.get("critique", ""))


def _js(value: Any) -> str:
    """As JavaScript prints it: whole numbers without a point."""
    return json.dumps(_whole(value), ensure_ascii=False, separators=(",", ":"))


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _example(draw: random.Random) -> dict[str, Any]:
    said = [{"role": "user", "content": 'Say "hi" & <b>.\nCase: case-0001 is about dates.'}]
    said.append({"role": "assistant", "content": "case-0001: dates=ABCD."})
    spans = [
        {"name": f"span {n}", "attributes": {"a.0": "x\ny", "n": draw.choice([1.0, 0.25])}, "end": None, "ok": True}
        for n in range(draw.choice([0, 1, 3]))
    ]
    messages = [{"messages": said, "tools": None}] * draw.choice([0, 1, 2])
    reward = draw.choice([None, 0.0, 1.0, 0.5, 0.3333333333333333])
    return {
        "status": draw.choice(["succeeded", "failed"]),
        "final_reward": reward,
        "messages": messages,
        "spans": spans,
    }


def check(samples: int) -> None:
    """Compare; exit code 1 where a text differs."""
    from agentlightning.algorithm.apo.apo import APPLY_EDIT_PROMPT_FILES, GRADIENT_PROMPT_FILES

    skeletons, draw, bad = Skeletons.load(), random.Random(0), 0
    for number in range(samples):
        context: dict[str, Any] = {"prompt_template": "You work.\nSay {x} & <i>.\n\nCase: {case}"}
        if number % 5 < 3:
            file = GRADIENT_PROMPT_FILES[number % 5]
            context["experiments"] = [_example(draw) for _ in range(draw.choice([1, 2, 4]))]
        else:
            file = APPLY_EDIT_PROMPT_FILES[number % 5 - 3]
            context["critique"] = 'Open:\n- Add: "State the dates."\n- Drop: "x"'
        ours, real = skeletons.render(file, context), poml.poml(file, context=context, format="openai_chat")
        same = ours["messages"] == real["messages"]
        bad += not same
        print(json.dumps({"text": file.name, "equal": same}), flush=True)
        if not same:
            print(json.dumps([ours["messages"], real["messages"]], indent=1), file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", type=int, default=10, metavar="N", help="how many texts to compare")
    check(parser.parse_args().check)
