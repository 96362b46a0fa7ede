"""The files of a run's report, and what stands in them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agentlightning.algorithm.apo.candidate import Candidate, Proposal
from agentlightning.algorithm.apo.report import Report, facts_of
from agentlightning.algorithm.apo.report.diff import word_diff
from agentlightning.algorithm.apo.report.drawing import bounds, lineage_svg, ticks
from agentlightning.algorithm.apo.report.tree import MOST, lineage
from agentlightning.algorithm.apo.state import Round, State

from .table import make_state, rows, table_of

EVIL = "new <script>alert(1)</script> & text"
REWARDS = {"0": [0, 0, 1, 0, 0, 1], EVIL: [1, 1, 1, 0, 1, 1], "weak": [0, 0, 0, 0, 0, 0], "merged": [1, 1, 1, 1, 0, 0]}


async def finished(*, test: bool = True, rewards: Mapping[str, Sequence[float]] = REWARDS) -> State:
    """Two rounds: a better prompt, one that the gate stopped, and a merge of two."""
    state = make_state(rows(rewards), val=6, train=6)
    state.trials.sizes = {"train": 6, "val": 6, "test": 6}  # type: ignore[attr-defined]
    state.rounds = []
    start = state.candidates[0]
    await state.trials.run([(start, place) for place in state.all_places("val")])

    async def round_of(texts: dict[str, tuple[Candidate, ...]], through: set[str]) -> list[Candidate]:
        state.rounds.append(Round(state.round + 1))
        made = [state.admit(Proposal({"prompt": t}, p, "reflect", "prompt", "<b>why</b>")) for t, p in texts.items()]
        passed = [each for each in made if each is not None and each.texts["prompt"] in through]
        await state.trials.run([(each, place) for each in passed for place in state.all_places("val")])
        now = state.rounds[-1]
        now.gated = [each.id for each in passed]
        state.best = state.ranked(state.candidates)[0]
        now.best, now.best_score = state.best.id, state.mean(state.best) or 0.0
        now.rollouts = state.ledger.spent.rollouts
        return passed

    (better,) = await round_of({EVIL: (start,), "weak": (start,), "0": (start,), " ": (start,)}, {EVIL})
    await round_of({"merged": (better, start)}, {"merged"})
    if test:
        best = state.best or start
        await state.trials.run([(each, place) for each in (start, best) for place in state.all_places("test")])
    return state


async def test_the_facts():
    facts = facts_of(await finished(), {}, "done")
    assert {row.id: row.fate for row in facts.rows} == {"v0": "start", "v1": "best", "v2": "not tried", "v3": "dropped"}
    assert facts.curve == [(6, pytest.approx(1 / 3)), (12, pytest.approx(5 / 6)), (18, pytest.approx(5 / 6))]
    assert facts.rejected == {"duplicate": 1, "empty": 1}
    assert facts.best.gain == pytest.approx(0.5)
    assert facts.held_out is not None
    assert facts.held_out.comparison is not None
    assert facts.held_out.comparison.difference == pytest.approx(0.5)
    assert (facts.held_out.comparison.wins, facts.held_out.comparison.losses) == (3, 0)
    assert "0.333 -> 0.833 on 6 held-out tasks: +0.500" in facts.held_out.describe()


async def test_all_files_are_there_when_a_run_has_ended(tmp_path: Path):
    Report(tmp_path / "apo", {"preset": "auto"}, "first").finish(await finished(), "two rounds are done")
    files = {file.name for file in (tmp_path / "apo").iterdir()}
    assert files == {
        "best_prompt.txt",
        "best_prompt.json",
        "candidates.jsonl",
        "report.html",
        "scores.png",
        "lineage.png",
    }
    assert (tmp_path / "apo" / "best_prompt.txt").read_text() == EVIL
    best = json.loads((tmp_path / "apo" / "best_prompt.json").read_text())
    assert best["prompts"] == {"prompt": EVIL}
    assert best["start_prompts"] == {"prompt": "0"}
    assert best["held_out"]["comparison"]["difference"] == pytest.approx(0.5)
    assert best["spent"]["rollouts"] == 30
    lines = (tmp_path / "apo" / "candidates.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["v0", "v1", "v2", "v3"]
    assert json.loads(lines[3])["parents"] == ["v1", "v0"]


async def test_the_page_says_the_result_and_escapes_what_models_wrote(tmp_path: Path):
    Report(tmp_path, {}, "<first>").finish(await finished(), "two rounds are done")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<b>why" not in page
    assert "&lt;script&gt;" in page
    assert "Best on validation: <b>v1 0.833 on 6 tasks</b>, start 0.333 on 6 tasks" in page
    assert "ended: two rounds are done" in page
    assert "better on 3 tasks, worse on 0, equal on 3" in page
    assert "No difference from the start is shown" in page  # three wins of three may be chance: p = 0.25
    assert "<td>duplicate</td>" in page
    assert "30 rollouts" in page


async def test_no_interval_leaves_the_scale_of_the_rewards():
    graded = {"0": [0.0, 0.1, 0.0, 0.2, 0.0, 0.3], EVIL: [1.0, 0.9, 1.0, 0.7, 1.0, 1.0], "weak": [0.0] * 6}
    state = await finished(rewards={**graded, "merged": [0.5] * 6})
    facts = facts_of(state, {}, "done")
    held = facts.held_out
    assert held is not None
    assert (held.start.low, held.best.high, held.start.method) == (0.0, 1.0, "t")
    graded["0"][0] = -1.0  # another scale
    state = await finished(rewards={**graded, "merged": [0.5] * 6})
    held = facts_of(state, {}, "done").held_out
    assert held is not None
    assert held.start.low < -0.5


async def test_the_page_says_what_rollouts_failed_with(tmp_path: Path):
    state = await finished()
    table = table_of(state)
    for number, (key, outcome) in enumerate(list(table.done.items())[:5]):
        error = "KeyError: '<question>'" if number else "TimeoutError: late"
        table.done[key] = replace(outcome, status="failed", error=error)
    facts = facts_of(state, {}, "done")
    assert facts.failures == {"KeyError: '<question>'": 4, "TimeoutError: late": 1}
    Report(tmp_path, {}, "first").finish(state, "done")
    page = (tmp_path / "report.html").read_text()
    assert "<td>KeyError: &#x27;&lt;question&gt;&#x27;</td><td class='n'>4</td>" in page
    assert json.loads((tmp_path / "best_prompt.json").read_text())["failures"] == facts.failures


async def test_without_test_tasks_the_page_warns(tmp_path: Path):
    Report(tmp_path, {}, "first").finish(await finished(test=False), "done")
    assert "flatters" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "best_prompt.json").read_text())["held_out"] is None


async def test_a_report_can_be_written_before_the_first_round(tmp_path: Path):
    report = Report(tmp_path, {}, "first")
    state = make_state(rows(REWARDS), val=6)
    state.rounds = []
    report.update(state)
    assert "No round is over yet" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "scores.png").exists()
    report.finish(state, "nothing could be paid")
    assert (tmp_path / "scores.png").exists()


async def test_several_prompts_have_a_file_each(tmp_path: Path):
    state = make_state(rows(REWARDS), val=6)
    state.candidates = [Candidate("v0", {"planner": "one", "../worker": "two"})]
    state.best, state.archive = state.candidates[0], []
    Report(tmp_path / "apo", {}, "first").finish(state, "done")
    assert (tmp_path / "apo" / "best_planner.txt").read_text() == "one"
    assert (tmp_path / "apo" / "best_..%2Fworker.txt").read_text() == "two"
    assert not (tmp_path / "worker.txt").exists()


async def test_pictures_of_the_page_are_well_formed():
    facts = facts_of(await finished(), {}, "done")
    tree = ET.fromstring(lineage_svg(facts))
    assert len(tree.findall(".//g")) == 4
    assert {text.text for text in tree.findall(".//text")} == {"v0  0.33", "v1  0.83", "v2", "v3  0.67"}


async def test_the_lineage_puts_a_merge_behind_both_parents():
    facts = facts_of(await finished(), {}, "done")
    tree = lineage(facts.rows, "v1")
    assert {node.row.id: node.generation for node in tree.nodes} == {"v0": 0, "v1": 1, "v2": 1, "v3": 2}
    assert [(a.row.id, b.row.id, first) for a, b, first in tree.edges] == [
        ("v0", "v1", True),
        ("v0", "v2", True),
        ("v1", "v3", True),
        ("v0", "v3", False),
    ]
    places = [node.place for node in tree.nodes]
    assert len({(node.generation, node.place) for node in tree.nodes}) == len(places)


async def test_of_very_many_candidates_only_those_that_count_are_drawn():
    state = make_state(rows({**REWARDS, **{f"t{n}": [0] * 6 for n in range(2 * MOST)}}), val=6)
    for n in range(2 * MOST):
        state.admit(Proposal({"prompt": f"t{n}"}, (state.candidates[-1],), "reflect"))
    facts = facts_of(state, {})
    best = state.candidates[MOST].id
    tree = lineage(facts.rows, best)
    assert [node.row.id for node in tree.nodes] == [f"v{n}" for n in range(MOST + 1)]
    assert tree.left_out == MOST


def test_a_difference_is_shown_word_by_word():
    assert word_diff("take the big room", "take the small free room") == [
        ("same", "take the "),
        ("gone", "big"),
        ("new", "small free"),
        ("same", " room"),
    ]
    long = "\n".join(f"line {n}" for n in range(2000))
    pieces = word_diff(long, long.replace("line 7\n", "line seven\n"))
    assert [text for kind, text in pieces if kind != "same"] == ["line 7\n", "line seven\n"]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.7, 812.4), (0.0, 1232.0), (0.001, 0.0021)])
def test_ticks_are_few_and_within(low: float, high: float):
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert low - 1e-9 <= found[0]
    assert found[-1] <= high + 1e-9


def test_rewards_from_0_to_1_have_that_axis():
    assert bounds([0.2, 0.9]) == (0.0, 1.0)
    low, high = bounds([-5.0, 20.0])
    assert low < -5
    assert high > 20
    assert bounds([7.0])[0] < 7 < bounds([7.0])[1]
