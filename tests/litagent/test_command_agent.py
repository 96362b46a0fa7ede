"""Programs as agents: what they get, what they may give, and how they end. All of them are real."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.emitter import find_final_reward, get_rewards_from_span
from agentlightning.litagent import CommandAgent, command
from agentlightning.litagent.process import TAIL_BYTES
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import LLM, ConfigError, PromptTemplate, ProxyLLM, RolloutConfig

from .programs import error_of, gone, output_of, run_all, run_one, written

ROOT = Path(__file__).parent.parent.parent


def python(code: str, **options: Any) -> CommandAgent:
    return command([sys.executable, "-c", code], **options)


def shell(script: str, **options: Any) -> CommandAgent:
    return command(["sh", "-c", script], **options)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"`{program}` is not installed")


@pytest.fixture
async def store() -> InMemoryLightningStore:
    return InMemoryLightningStore()


# -- where the reward comes from ------------------------------------------------------------------------------------

POST_WITH_CURL = (
    'curl --silent --show-error --fail --data \'{"event_type": "reward", "value": 0.25}\' '
    '--header "Authorization: Bearer $AGL_KEY" "$AGL_EVENT_URL"'
)

NODE = """
const fs = require('fs');
const task = JSON.parse(fs.readFileSync(process.env.AGL_TASK_FILE));
fs.writeFileSync(process.env.AGL_REWARD_FILE, JSON.stringify({reward: task.n / 2}));
"""


@needs("curl")
async def test_a_shell_script_posts_its_reward():
    done, spans = await run_one(shell(POST_WITH_CURL))
    assert done.status == "succeeded"
    assert find_final_reward(spans) == 0.25


@needs("node")
async def test_a_node_program_writes_its_reward():
    done, spans = await run_one(command(["node", "-e", NODE]), {"n": 1})
    assert done.status == "succeeded"
    assert find_final_reward(spans) == 0.5


@needs("perl")
@pytest.mark.parametrize(("code", "reward"), [(0, 1.0), (1, 0.0), (7, 0.0)])
async def test_a_perl_program_only_exits(code: int, reward: float):
    done, spans = await run_one(command(["perl", "-e", f"exit {code}"], reward_from_exit=True))
    assert done.status == "succeeded"
    assert find_final_reward(spans) == reward
    assert output_of(spans)["exit_code"] == code


@needs("cc")
def test_a_c_program_is_ended_by_a_signal(tmp_path: Path):
    (tmp_path / "agent.c").write_text("#include <stdlib.h>\nint main(void) { abort(); }\n")
    subprocess.run(["cc", "-o", "agent", "agent.c"], cwd=tmp_path, check=True)
    done, _ = asyncio.run(run_one(command("./agent", cwd=tmp_path)))
    assert "`./agent` was ended by SIGABRT and gave no reward" in error_of(done)


EVENTS = """
import json, os, urllib.request

def post(**event):
    headers = {"Authorization": "Bearer " + os.environ["AGL_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["AGL_EVENT_URL"], json.dumps(event).encode(), headers)
    assert urllib.request.urlopen(request).status == 201

post(event_type="annotation", attributes={"stage": {"name": "plan"}})
post(event_type="message", body="half way")
post(event_type="object", value={"steps": [1, 2]})
post(event_type="exception", type="IOError", message="a tool failed", traceback="at line 1")
post(event_type="reward", value={"score": 0.5, "speed": 2}, attributes={"judge": "me"})
post(event_type="reward", value={"score": 1.0, "speed": 3}, primary_key="speed")
"""


async def test_a_python_program_posts_every_kind_of_event_and_each_is_what_an_emitter_makes():
    @agl.rollout
    def emitting(task: Any) -> None:
        agl.emit_annotation({"stage": {"name": "plan"}})
        agl.emit_message("half way")
        agl.emit_object({"steps": [1, 2]})
        agl.emit_exception(OSError("a tool failed"))
        agl.emit_reward({"score": 0.5, "speed": 2}, primary_key="score", attributes={"judge": "me"})
        agl.emit_reward({"score": 1.0, "speed": 3}, primary_key="speed")

    done, spans = await run_one(python(EVENTS))
    expected = (await run_one(emitting))[1]
    assert done.status == "succeeded", error_of(done)
    posted = [span for span in spans if span.name != "agentlightning.operation"]
    assert [span.name for span in posted] == [span.name for span in expected]
    assert [span.sequence_id for span in spans] == list(range(1, len(spans) + 1))
    for ours, theirs in zip(posted, expected, strict=True):
        if ours.name == "agentlightning.exception":
            assert ours.attributes == {
                "exception.type": "IOError",
                "exception.message": "a tool failed",
                "exception.stacktrace": "at line 1",
            }
        else:
            assert ours.attributes == theirs.attributes
        assert ours.status.status_code == theirs.status.status_code
        assert ours.trace_id == posted[0].trace_id
        assert ours.resource == theirs.resource


@pytest.mark.parametrize(
    ("printed", "reward"),
    [
        ('{"reward": 0.5}', {"primary": 0.5}),
        ('thinking\n{"reward": 1}\n\n', {"primary": 1.0}),
        ('{"reward": 0.5, "speed": 2}', {"reward": 0.5, "speed": 2.0}),
        ('{"speed": 2, "reward": 0.5, "primary_key": "speed"}', {"speed": 2.0, "reward": 0.5}),
        ('{"reward": {"a": 1, "b": 2}}', {"a": 1.0, "b": 2.0}),
    ],
)
async def test_a_last_line_may_be_the_reward(printed: str, reward: dict[str, float]):
    done, spans = await run_one(command(["printf", "%s", printed]))
    assert done.status == "succeeded", error_of(done)
    assert {entry.name: entry.value for entry in get_rewards_from_span(spans[-1])} == reward
    assert next(iter(reward)) == get_rewards_from_span(spans[-1])[0].name


@pytest.mark.parametrize(
    ("content", "reward"),
    [("0.75", {"primary": 0.75}), ('{"reward": 2}\n', {"primary": 2.0}), ('{"a": 1, "b": 0}', {"a": 1.0, "b": 0.0})],
)
async def test_the_reward_file(content: str, reward: dict[str, float]):
    done, spans = await run_one(shell(f"printf '%s' '{content}' > $AGL_REWARD_FILE"))
    assert done.status == "succeeded", error_of(done)
    assert {entry.name: entry.value for entry in get_rewards_from_span(spans[-1])} == reward


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('printf good > "$AGL_REWARD_FILE"', "the reward file holds 'good'; give a number"),
        ('printf NaN > "$AGL_REWARD_FILE"', "the reward file holds no reward: `reward` must be a finite number"),
        ('printf {} > "$AGL_REWARD_FILE"', "the reward file holds no reward"),
        ('mkdir "$AGL_REWARD_FILE"', "the reward file can't be read"),
        ('echo \'{"reward": "high"}\'', "the last line of stdout holds no reward: `reward` must be a number"),
        ("echo '{\"reward\": 1}'; echo done", "gave no reward: POST it to AGL_EVENT_URL, write it to AGL_REWARD_FILE"),
        ("echo 0.5", "gave no reward: "),
        (
            "echo first >&2; echo last >&2; exit 3",
            "exited with 3 and gave no reward; the end of its stderr:\nfirst\nlast",
        ),
        ("exit 4", "exited with 4 and gave no reward; it wrote nothing to stderr"),
        ("kill -9 $$", "was ended by SIGKILL and gave no reward"),
    ],
)
async def test_what_is_no_reward_is_a_failed_attempt_that_says_so(script: str, expected: str):
    done, _ = await run_one(shell(script))
    assert expected in error_of(done)


async def test_a_program_that_is_not_there():
    done, _ = await run_one(command("no-such-program --flag"))
    assert "`no-such-program` can't be started: " in error_of(done)
    done, _ = await run_one(command("true", cwd="/no/such/directory"))
    assert "`true` can't be started in `/no/such/directory`" in error_of(done)


async def test_a_program_that_may_not_be_executed_is_a_failed_attempt_and_no_reward(tmp_path: Path):
    (tmp_path / "agent.sh").write_text("#!/bin/sh\nexit 0\n")
    agent = command("./agent.sh", cwd=tmp_path, reward_from_exit=True)
    done, _ = await run_one(agent)
    assert f"`./agent.sh` can't be started in `{tmp_path}`: [Errno 13] Permission denied" in error_of(done)
    (tmp_path / "agent.sh").chmod(0o700)
    done, spans = await run_one(agent)
    assert (done.status, find_final_reward(spans)) == ("succeeded", 1.0)
    done, _ = await run_one(command("agent.sh", cwd=tmp_path, reward_from_exit=True))
    assert "`agent.sh` can't be started" in error_of(done), "the working directory is not on `PATH`"


async def test_its_standard_input_is_empty():
    done, spans = await run_one(shell("""printf '{"reward": %s}' "$(cat | wc -c)" """))
    assert (done.status, find_final_reward(spans)) == ("succeeded", 0.0)


@needs("curl")
async def test_posts_come_before_the_file_the_file_before_stdout_and_stdout_before_the_exit_code():
    file, line = "echo 2 > $AGL_REWARD_FILE", "echo '{\"reward\": 3}'"
    for script, reward in (
        (f"{POST_WITH_CURL}; {file}; echo; {line}", 0.25),
        (f"{file}; {line}", 2.0),
        (f"{line}", 3.0),
        ("true", 1.0),
    ):
        _, spans = await run_one(shell(script, reward_from_exit=True))
        rewards = [entry.value for span in spans for entry in get_rewards_from_span(span)]
        assert rewards == [reward], script


# -- what the program gets ------------------------------------------------------------------------------------------

SHOW = """
import json, os, stat, sys
seen = {name: os.environ[name] for name in os.environ if name.startswith(("AGL_", "OPENAI_")) or name in sys.argv}
seen["task"] = json.load(open(os.environ["AGL_TASK_FILE"]))
seen["resources"] = json.load(open(os.environ["AGL_RESOURCES_FILE"]))
seen["mode"] = oct(stat.S_IMODE(os.stat(os.environ["AGL_TASK_FILE"]).st_mode))
seen["open_to"] = oct(stat.S_IMODE(os.stat(os.path.dirname(os.environ["AGL_TASK_FILE"])).st_mode))
seen["prompt"] = open(os.environ["AGL_PROMPT_FILE"]).read() if "AGL_PROMPT_FILE" in os.environ else None
seen["group"] = os.getpgrp() == os.getpid()
print(json.dumps(seen))
print('{"reward": 1}')
"""


async def shown(agent: CommandAgent, store: InMemoryLightningStore, task: Any = None, **request: Any) -> dict[str, Any]:
    done, spans = await run_one(agent, task, store, **request)
    assert done.status == "succeeded", error_of(done)
    return {"rollout": done, **json.loads(output_of(spans)["stdout"].splitlines()[0])}


async def test_the_task_the_model_and_the_prompt(store: InMemoryLightningStore):
    prompt = PromptTemplate(template="Answer {question}, ünïcode")
    llm = ProxyLLM(endpoint="http://127.0.0.1:9/v1", model="tiny", api_key="sk-long-enough")
    await store.add_resources({"prompt": prompt, "main_llm": llm, "other": LLM(endpoint="http://o/v1", model="o")})
    task = {"question": "ü", "numbers": [1, 2.5, None]}
    seen = await shown(python(SHOW), store, task, mode="val")
    rollout = seen["rollout"]
    assert seen["task"] == task
    assert seen["AGL_ROLLOUT_ID"] == rollout.rollout_id
    assert seen["AGL_ATTEMPT_ID"] == rollout.attempt.attempt_id
    assert seen["AGL_MODE"] == "val"
    assert seen["AGL_MODEL"] == "tiny"
    url = f"http://127.0.0.1:9/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}/v1"
    assert seen["OPENAI_BASE_URL"] == url
    assert seen["OPENAI_API_KEY"] == "<OPENAI_API_KEY>", "it got the key, and the span does not hold it"
    assert seen["AGL_KEY"] == "<AGL_KEY>"
    assert seen["prompt"] == prompt.template
    assert seen["resources"]["main_llm"]["endpoint"] == url
    assert seen["resources"]["other"]["api_key"] == "none"
    assert (seen["mode"], seen["open_to"]) == ("0o600", "0o700")
    assert seen["group"]
    assert not await asyncio.to_thread(Path(seen["AGL_TASK_FILE"]).parent.exists), "nothing is left of it"


async def test_without_resources(store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGL_STORE_TOKEN", "the runner's own")
    seen = await shown(python(SHOW), store, 5)
    assert seen["task"] == 5
    absent = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "AGL_MODEL", "AGL_MODE", "AGL_PROMPT_FILE", "AGL_STORE_TOKEN")
    assert [name for name in absent if name in seen] == []
    assert seen["resources"] == {}


async def test_variables_of_its_own(store: InMemoryLightningStore):
    mapped = {"QUESTION": "question", "CITY": "user.city", "LIST": "list"}
    agent = command(
        [sys.executable, "-c", SHOW, "QUESTION", "CITY", "LIST", "EXTRA", "no.name for-a-shell"],
        env={"EXTRA": "yes", "no.name for-a-shell": "a=b c"},
        input_map=mapped,
    )
    task = {"question": "why?", "user": {"city": "Zürich"}, "list": [1]}
    seen = await shown(agent, store, task)
    assert (seen["QUESTION"], seen["CITY"], seen["LIST"], seen["EXTRA"]) == ("why?", "Zürich", "[1]", "yes")
    assert seen["no.name for-a-shell"] == "a=b c"

    done, _ = await run_one(agent, {"question": "why?", "user": "me"}, store)
    assert "the task has no `user.city`, which `input_map` names" in error_of(done)


async def test_the_end_of_its_output_is_kept_and_no_more():
    noisy = python("import sys; [print('x' * 99) for _ in range(9000)]; sys.stderr.write('e' * 99999); print(0)")
    done, spans = await run_one(noisy)
    output = output_of(spans)
    assert output["stdout"].startswith(f"[{9000 * 100 + 2 - TAIL_BYTES} bytes before this are not kept]\n")
    assert output["stdout"].endswith("x\n0\n")
    assert len(output["stderr"]) < TAIL_BYTES + 100
    assert len(error_of(done)) < 2 * TAIL_BYTES


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([],), "`command` is empty"),
        (("",), "`command` is empty"),
        (("x", {"warm": True, "reward_from_exit": True}), "exclude each other"),
        (("x", {"warm": True, "input_map": {"A": "a"}}), "exclude each other"),
        (("x", {"grace": -1}), "`grace` must be 0 or more"),
        (("x", {"env": {"N": 1}}), "`env` has 'N': 1; give both as text"),
        (("x", {"input_map": {"Q": 0}}), "`input_map` has 'Q': 0; give both as text"),
    ],
)
def test_what_cannot_work(arguments: tuple[Any, ...], expected: str):
    with pytest.raises(ConfigError, match=expected):
        command(arguments[0], **(arguments[1] if len(arguments) > 1 else {}))


def test_a_string_is_split_as_a_shell_would():
    assert command("node 'my agent.js' --n 1").argv == ["node", "my agent.js", "--n", "1"]


async def test_it_can_be_sent_to_another_process():
    agent = command("true", reward_from_exit=True, warm=False)
    await run_one(agent)
    copy = pickle.loads(pickle.dumps(agent))
    assert find_final_reward((await run_one(copy))[1]) == 1.0


# -- many at once, and their ends -----------------------------------------------------------------------------------

MEET = """
touch "$AGL_ROLLOUT_ID"
while [ "$(ls | wc -l)" -lt 6 ]; do sleep 0.01; done
echo '{"reward": 1}'
"""


async def test_many_run_at_once(store: InMemoryLightningStore, tmp_path: Path):
    """Each waits for all the others, so they would never end one after another."""
    done = await run_all(shell(MEET, cwd=tmp_path), list(range(6)), store, max_concurrency=6)
    assert {rollout.status for rollout in done} == {"succeeded"}


FAMILY = "sh -c 'echo $$ >> pids; sleep 1000' & echo $$ >> pids; "


def pids_in(directory: Path, count: int) -> list[int]:
    """What a family wrote down, once all of it has."""
    return [int(pid) for pid in written(directory / "pids", count).split()]


async def test_what_a_program_leaves_behind_is_ended(tmp_path: Path):
    done, _ = await run_one(
        shell(FAMILY + "echo 1 > $AGL_REWARD_FILE; until [ $(wc -l < pids) = 2 ]; do :; done", cwd=tmp_path)
    )
    assert done.status == "succeeded", error_of(done)
    assert all(gone(pid) for pid in pids_in(tmp_path, 2))


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
async def test_a_timeout_ends_the_whole_family(trap: str, tmp_path: Path, store: InMemoryLightningStore):
    config = RolloutConfig(timeout_seconds=2.0)
    done, _ = await run_one(
        shell(trap + FAMILY + "wait; sleep 1000", cwd=tmp_path, grace=0.3), "t", store, config=config
    )
    assert done.status == "failed"
    assert done.attempt.status == "timeout"  # type: ignore[attr-defined]
    for pid in pids_in(tmp_path, 2):  # the runner goes on before they are gone: the loop has to run for the rest
        assert await asyncio.to_thread(gone, pid)


async def test_a_program_may_clean_up_when_it_is_ended(tmp_path: Path, store: InMemoryLightningStore):
    script = "trap 'echo cleaned > note; exit 0' TERM; echo > ready; while :; do sleep 0.01; done"
    config = RolloutConfig(timeout_seconds=2.0)
    await run_one(shell(script, cwd=tmp_path), "t", store, config=config)
    assert written(tmp_path / "note") == "cleaned\n"


def test_the_end_of_the_runner_does_not_cut_the_grace_short(tmp_path: Path):
    """The runner waits a second for an agent that it has cancelled; this one takes longer to clean up."""
    script = "trap 'sleep 2; echo cleaned > note; exit 0' TERM; while :; do sleep 0.01; done"
    config = RolloutConfig(timeout_seconds=2.0)
    asyncio.run(run_one(shell(script, cwd=tmp_path, grace=60.0), "t", config=config))
    assert (tmp_path / "note").read_text() == "cleaned\n"


async def test_a_runner_that_is_cancelled_ends_its_programs(tmp_path: Path, store: InMemoryLightningStore):
    agent = shell(FAMILY + "sleep 1000", cwd=tmp_path)

    with agl.LitAgentRunner(agl.OtelTracer()).run_context(agent=agent, store=store) as runner:
        work = asyncio.create_task(runner.iter())
        await store.enqueue_rollout("task")
        pids = await asyncio.to_thread(pids_in, tmp_path, 2)
        work.cancel()
        await asyncio.wait({work})
    assert all(gone(pid) for pid in pids)


RUNNER = """
import asyncio, os, pathlib, signal, sys
import agentlightning as agl
from agentlightning.litagent.guard import Guard

def watch(self, group, known=Guard.watch):
    pathlib.Path("group").write_text(f"{group}\\n")
    if sys.argv[3] == "after":
        known(self, group)
    os.kill(os.getpid(), signal.SIGKILL)

if len(sys.argv) > 3:
    Guard.watch = watch

async def main():
    agent = agl.command(["sh", "-c", sys.argv[1]], warm=sys.argv[2] == "warm")
    with agl.LitAgentRunner(agl.OtelTracer()).run_context(agent=agent, store=agl.InMemoryLightningStore()) as runner:
        await runner.step("task")

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("kind", ["cold", "warm"])
def test_programs_end_when_the_runners_process_is_killed(tmp_path: Path, kind: str, number: signal.Signals):
    script = f"trap '' HUP; {FAMILY} sleep 1000; true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", RUNNER, script, kind], cwd=tmp_path, env=environment, stderr=-3)
    try:
        pids = pids_in(tmp_path, 2)
        process.send_signal(number)
        process.wait()
        assert all(gone(pid) for pid in pids)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["cold", "warm"])
def test_a_kill_right_when_the_guard_is_told_leaves_nothing_behind(tmp_path: Path, kind: str, moment: str):
    command = [sys.executable, "-c", RUNNER, "touch ran; exec sleep 1000", kind, moment]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, cwd=tmp_path, env=environment, stderr=-3).returncode == -signal.SIGKILL
    assert gone(int(written(tmp_path / "group")))
    assert not (tmp_path / "ran").exists()
