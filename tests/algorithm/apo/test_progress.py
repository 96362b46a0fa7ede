"""What is shown while prompts are tuned."""

from __future__ import annotations

import io

from rich.console import Console

from agentlightning.algorithm.apo.progress import Progress
from agentlightning.algorithm.apo.report import facts_of

from .table import table_of
from .test_report import finished


def plain() -> Console:
    return Console(file=io.StringIO(), width=80)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def run(progress: Progress) -> None:
    state = await finished()
    last = state.rounds.pop()
    with progress:
        progress.rollouts(3, 6)
        progress.rollouts(6, 6)
        progress.round_done(state)
        state.rounds.append(last)
        progress.round_done(state)
        progress.round_done(state)
        progress.finished(facts_of(state, {}, "2 rounds are done"))


async def test_without_a_terminal_one_line_a_round():
    console = plain()
    await run(Progress(2, console=console))
    lines = written(console).splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["round 1/2", "round 2/2", "round 2/2 at the end"]
    assert lines[0].startswith(
        "round 1/2  best v1 0.833 (start 0.333)  2 new, 1 through the gate, 2 turned down  30 rollouts"
    )
    assert lines[3:5] == ["ended: 2 rounds are done", "best: v1, validation 0.833 (start 0.333)"]
    assert lines[5].startswith("held-out reward: 0.333 -> 0.833 on 6 held-out tasks: +0.500")
    assert lines[6].startswith("cost: 30 rollouts")
    assert len(lines) == 7


async def test_on_a_terminal_a_table_of_the_candidates_and_the_cost():
    console = terminal()
    await run(Progress(2, console=console))
    shown = written(console)
    last = shown[shown.rindex("validation") - 200 :]
    assert "2/2" in shown
    assert "best" in last
    assert "30 rollouts" in shown
    assert "held-out reward: 0.333 -> 0.833" in last
    assert "0.833   0.436 to 0.970       6" in shown  # Wilson's interval is not symmetric


async def test_the_last_lines_say_on_how_many_tasks_where_the_start_had_fewer():
    state = await finished()
    for key in [key for key in table_of(state).done if key[0] == state.candidates[0].key and key[1].task > 1]:
        del table_of(state).done[key]
    console = plain()
    with Progress(2, console=console) as progress:
        progress.finished(facts_of(state, {}, "done"))
    assert "best: v1, validation 0.833 on 6 tasks (start 0.000 on 2)" in written(console)


async def test_disabled_shows_nothing():
    for console in (plain(), terminal()):
        await run(Progress(2, enabled=False, console=console))
        assert written(console) == ""
