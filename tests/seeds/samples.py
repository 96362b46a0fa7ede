"""The code samples of the mission's documents on reinforcement learning and prompts, and what is changed in each.

`snippets/` holds each sample as its document has it, word for word (`test_documents` compares them). `SAMPLES` is the
whole table of changes: names that a sample leaves open are bound, names on a hub become local paths, `verl.trainer` is
`agentlightning.verl`, a recipe's script is the equivalent configuration, and sizes fit a tiny model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SNIPPETS = Path(__file__).parent / "snippets"
SEEDS = Path(__file__).parents[3] / "shared" / "seeds"
"""Where the documents lie beside the repository; absent elsewhere."""

OURS = ("verl.trainer.main_ppo", "agentlightning.verl.main_ppo")
LOCAL_FIRST = " --local_dataset_path $HOME/raw"
"""The data set is read from a copy."""
TINY = " ".join(
    (
        "actor_rollout_ref.model.path=$HOME/model",
        "data.max_prompt_length=400",
        "data.max_response_length=4",
        "trainer.total_training_steps=1",
        "agentlightning.threads=1",
        # An untrained model solves no problem; this one gives points for what it can say.
        "reward.custom_reward_function.path=$HOME/reward.py",
    )
)
"""Settings for a model that was made on the spot."""
GSM8K = "data.train_files=$HOME/data/gsm8k/train.parquet"
MATH = "data.train_files=$HOME/data/math/train.parquet"


def recipe(name: str, *words: str) -> str:
    """What runs in place of a recipe's script."""
    return " ".join(("python3 -m agentlightning.verl.main_ppo --config-name", name, *words, TINY))


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample and what is changed in it."""

    name: str
    changes: Sequence[tuple[str, str]] = ()
    """(what stands there, what runs instead), each in all places."""

    @property
    def document(self) -> str:
        return self.name[:3]

    @property
    def original(self) -> str:
        """The sample as it stands."""
        return (SNIPPETS / f"{self.name}.txt").read_text("utf-8")

    @property
    def text(self) -> str:
        """The sample with its changes made; each must find its place."""
        text = self.original
        for old, new in self.changes:
            assert old in text, f"{self.name}: {old!r} is not in the sample"
            text = text.replace(old, new)
        return text


_SAMPLES = (
    Sample("000-verl", [("meta-llama/Meta-Llama-3-8B-Instruct", "model")]),
    Sample("000-apo"),
    Sample("001-verl", [("Qwen/Qwen2.5-1.5B-Instruct", "model")]),
    Sample("002-shortcut", [("agl.VERL(...)", "made = agl.VERL(config)")]),
    Sample("002-install"),
    Sample("002-proxy", [("proxy_llm.get_base_url", "url = proxy_llm.get_base_url")]),
    Sample(
        "003-dapo-quickstart",
        [
            ("bash prepare_dapo_data.sh", f"python3 -m examples.data_preprocess.math_dataset{LOCAL_FIRST}"),
            ("cd verl\n", ""),
            ("bash recipe/dapo/run_dapo_qwen2.5_32b.sh", recipe("dapo", MATH)),
        ],
    ),
    Sample("003-dapo-config", [("1536", "8"), ("512", "4"), ("20480", "4"), ("4096", "2")]),
    Sample("003-rloo"),
    Sample(
        "003-rloo-command",
        [
            OURS,
            ("Qwen/Qwen2.5-0.5B-Instruct", "$HOME/model"),
            ("trainer.total_epochs=15", f"trainer.total_epochs=15 {TINY.partition(' ')[2]}"),
        ],
    ),
    Sample("003-remax"),
    Sample("003-reinforce-plus-plus"),
    Sample("003-reinforce-plus-plus-baseline"),
    Sample(
        "003-spin",
        [
            ("examples/data_preprocess/gsm8k.py", f"examples/data_preprocess/gsm8k.py{LOCAL_FIRST}"),
            ("hf download Qwen/Qwen2.5-3B-Instruct --local-dir $HOME/models/Qwen2.5-3B-Instruct", ""),
            ("bash recipe/spin/run_spin.sh", recipe("spin", GSM8K)),
        ],
    ),
    Sample(
        "003-sppo",
        [
            ('python3 -m uv pip install -e "[sglang]"', ""),
            ("examples/data_preprocess/math_dataset.py", f"examples/data_preprocess/math_dataset.py{LOCAL_FIRST}"),
            ("hf download Qwen/Qwen2.5-7B-Instruct --local-dir $HOME/models/Qwen2.5-7B-Instruct", ""),
            ("bash recipe/sppo/run_qwen2.5-7b_rm.sh", recipe("sppo", MATH)),
        ],
    ),
    Sample(
        "003-kl-cov",
        [
            ("bash recipe/dapo/7b_kl_cov.sh", recipe("kl_cov", MATH, "trainer.experiment_name=7b")),
            (
                "bash recipe/dapo/32b_kl_cov.sh",
                recipe(
                    "kl_cov",
                    MATH,
                    "trainer.experiment_name=32b",
                    "actor_rollout_ref.actor.policy_loss.kl_cov_ratio=0.0002",
                ),
            ),
        ],
    ),
)
SAMPLES = {sample.name: sample for sample in _SAMPLES}
