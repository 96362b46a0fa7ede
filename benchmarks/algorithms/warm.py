"""The data and the models that reinforcement learning starts from: the calculator example's, and one fine-tuned on.

Called by `one` and `compare`. The warm start is that of `make train SEED=0`: it imitates people who get most of the
harder problems wrong. `more` is what a user without rewards would do next: a few demonstrations that are right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentlightning.algorithm.data import load_dataset
from agentlightning.algorithm.sft import FinetuneConfig, finetune
from examples.calc.demos import demonstrations
from examples.calc.train import WARM_START, make_data, warm_start

from .matrix import ALGORITHMS, TEST_PROBLEMS, THREADS, sft_model, start_of

MORE = {**WARM_START, "lr": 1e-4, "token_budget": 4096}
MORE_DEMONSTRATIONS = 64
"""Right demonstrations for SFT. Enough to see what it brings, too few to leave nothing for PPO after it."""


def make_warm_start(home: Path) -> dict[str, Any]:
    """Data and the shared warm start, in `home`."""
    if not (home / "data" / "test.jsonl").exists():
        make_data(home / "data", 0)
    return warm_start(home, load_dataset(home / "data" / "train.jsonl"), 0)


def problems(home: Path) -> tuple[list[Any], list[Any]]:
    """Training problems, and held-out ones."""
    train, test = (load_dataset(home / "data" / f"{split}.jsonl") for split in ("train", "test"))
    return [train[i] for i in range(len(train))], [test[i] for i in range(TEST_PROBLEMS)]


def settings_of(name: str, home: Path, seed: int) -> dict[str, Any]:
    """All that makes a run what it is, as its result keeps it: one that was made with other settings is run again."""
    chosen = ALGORITHMS[name]
    sft = {"demonstrations": MORE_DEMONSTRATIONS, **MORE} if chosen.preset is None or chosen.after_sft else None
    config = None if chosen.preset is None else chosen.settings(str(start_of(home, name, seed)), seed)
    return {"preset": chosen.preset, "config": config, "sft": sft}


def more(home: Path, seed: int) -> dict[str, Any]:
    """Fine-tune the warm start on right demonstrations, other ones for each seed."""
    train, _ = problems(home)
    rows = train[seed * MORE_DEMONSTRATIONS : (seed + 1) * MORE_DEMONSTRATIONS]
    return finetune(
        home / "warm_start",
        demonstrations(rows, seed=seed, error_rate=0.0),
        sft_model(home, seed),
        FinetuneConfig(seed=seed, threads=THREADS, **MORE),
    )
