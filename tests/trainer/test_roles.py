"""One script as two processes: the algorithm here, the runners there."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentlightning.store import SqlLightningStore

SCRIPT = """
import asyncio, sys
import agentlightning as agl

@agl.rollout
async def agent(task):
    if task == 4:
        agl.emit_reward(0.0)
        await asyncio.sleep(1.5)
    return float(task)

class Sum(agl.Algorithm):
    def check(self):
        print("algorithm checked")

    async def run(self, train_dataset=None, val_dataset=None):
        store = self.get_store()
        while len(await store.query_workers()) < 2:  # both runners have found their way
            await asyncio.sleep(0.05)
        ids = [(await store.enqueue_rollout(task)).rollout_id for task in train_dataset]
        await store.wait_for_rollouts(rollout_ids=ids)
        rewards = [agl.find_final_reward(list(await store.query_spans(i))) for i in ids]
        print("sum", sum(rewards))
        left = await store.enqueue_rollout(4)
        while len(await store.query_spans(left.rollout_id)) == 0:  # it is under way when the algorithm ends
            await asyncio.sleep(0.05)

trainer = agl.Trainer(algorithm=Sum(), n_runners=2, run_dir="run")
trainer.fit(agent, [1, 2, 3] if sys.argv[1:] == ["tasks"] else None)
print("done")
"""


def start(tmp_path: Path, role: str, port: int, *arguments: str) -> subprocess.Popen[str]:
    folder = tmp_path / role
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    variables = {"AGL_CURRENT_ROLE": role, "AGL_SERVER_PORT": str(port), "AGL_SERVER_HOST": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "script.py", *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def in_store(file: Path) -> list[str]:
    store = SqlLightningStore(file)
    try:
        return [rollout.status for rollout in await store.query_rollouts()]
    finally:
        await store.close()


@pytest.mark.parametrize("first", ["algorithm", "runner"])
def test_algorithm_and_runners_as_two_programs(tmp_path: Path, first: str):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = {"algorithm": ["tasks"], "runner": []}
    second = next(role for role in arguments if role != first)
    programs = {role: start(tmp_path, role, port, *arguments[role]) for role in (first, second)}
    try:
        said = {role: program.communicate(timeout=120) for role, program in programs.items()}
    finally:
        for program in programs.values():
            program.kill()
    for role, program in programs.items():
        assert program.returncode == 0, said[role][1]
        assert "Traceback" not in said[role][1], said[role][1]
    assert said["algorithm"][0] == "algorithm checked\nsum 6.0\ndone\n"
    assert said["runner"][0] == "done\n"
    statuses = asyncio.run(in_store(tmp_path / "algorithm" / "run" / "store.sqlite"))
    assert statuses == ["succeeded"] * 4
    assert not (tmp_path / "runner" / "run").exists()
