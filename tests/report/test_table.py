import io

from rich.console import Console

from agentlightning.report.table import print_notes, print_summary

SUMMARY = {
    "seed": 0,
    "val_reward_before": 0.55,
    "val_reward_after": 0.95,
    "test_reward_before": 0.5481,
    "test_reward_after": None,
    "steps": 48,
    "rollouts": 6144,
    "checkpoint": "runs/[x]/global_step_48",
    "wall_s_by_phase": {"data": 0.42, "warm_start": 48.2, "reinforcement": 201.3},
    "wall_s": 249.92,
    "peak_rss_mib": 1432.2,
    "lr": 3e-4,
}


def shown(width: int = 100, *, terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, force_terminal=terminal, color_system=None), file


def test_summary():
    console, file = shown()
    print_summary(SUMMARY, console)
    rows = [line.split("  ") for line in file.getvalue().splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["val reward", "0.550", "0.950", "+0.400"] in cells
    assert ["test reward", "0.548"] in cells
    assert ["rollouts", "6,144"] in cells
    assert ["checkpoint", "runs/[x]/global_step_48"] in cells
    assert ["peak rss", "1,432 MiB"] in cells
    assert ["lr", "0.0003"] in cells
    wall = cells.index(["wall time", "4 min 10 s"])
    assert cells[wall + 1 : wall + 4] == [["data", "0.4 s"], ["warm start", "48.2 s"], ["reinforcement", "3 min 21 s"]]


def test_summary_of_a_run_without_rewards():
    console, file = shown()
    print_summary({"seed": 1, "steps": 2}, console)
    assert "before" not in file.getvalue()
    assert "steps" in file.getvalue()


def test_notes_that_say_the_same_share_a_row():
    notes = [
        ("actor_rollout_ref.actor.fsdp_config.param_offload", True, "nothing to shard", "later"),
        ("actor_rollout_ref.actor.fsdp_config.optimizer_offload", True, "nothing to shard", "later"),
        ("trainer.logger", "[bold]", "not installed", "pip install '[verl]'"),
    ]
    console, file = shown(width=80)
    print_notes(notes, console)
    text = file.getvalue()
    assert text.count("nothing to shard") == 1
    for expected in (
        "fsdp_config.param_offload = True",
        "fsdp_config.optimizer_offload = True",
        "'[bold]'",
        "'[verl]'",
    ):
        assert expected in text


def test_notes_on_a_narrow_terminal_lose_nothing():
    console, file = shown(width=60, terminal=True)
    print_notes([("actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu", 4, "by token budget", "")], console)
    first_column = "".join(line[2:26].strip() for line in file.getvalue().splitlines()[4:])
    assert "log_prob_micro_batch_size_per_gpu" in first_column
    assert "…" not in file.getvalue()


def test_no_notes_no_table():
    console, file = shown()
    print_notes([], console)
    assert file.getvalue() == ""
