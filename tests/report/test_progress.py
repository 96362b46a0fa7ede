import io

from rich.console import Console

from agentlightning.report.progress import Progress, describe_step, track

from .rows import learning_rows


def plain() -> Console:
    return Console(file=io.StringIO(), width=80)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def run(progress: Progress) -> None:
    with progress:
        for row in learning_rows(steps=4, every=4):
            report = progress.phase(int(row["step"]), "rollouts")
            report(3, 8)
            report(8, 8)
            progress.phase_now("update", 1, 2)
            progress.step_done(row)


def test_without_a_terminal_one_line_a_step():
    console = plain()
    run(Progress(4, console=console))
    lines = written(console).splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"step {step}/4" for step in range(5)]
    assert lines[0] == "step 0/4  val 0.500"
    assert lines[4].endswith("val 0.950  4,500 tokens/s  2.0 s")


def test_on_a_terminal_bars_and_the_last_numbers():
    console = terminal()
    run(Progress(4, console=console))
    shown = written(console)
    last = shown[shown.rindex("step ") :]
    assert "4/4" in last
    assert "val 0.950" in last
    assert "rollouts" not in last  # the phase goes when the run is over


def test_disabled_shows_nothing():
    for console in (plain(), terminal()):
        run(Progress(4, enabled=False, console=console))
        assert written(console) == ""


def test_a_failing_run_leaves_the_terminal_in_order():
    console = terminal()
    try:
        with Progress(4, console=console) as progress:
            progress.phase(1, "rollouts")
            raise RuntimeError("agent server is gone")
    except RuntimeError:
        pass
    assert written(console).count("\x1b[?25l") == written(console).count("\x1b[?25h") == 1  # cursor hidden, and back


def test_failed_rollouts_are_named():
    row = {"step": 3, "critic/score/mean": 0.25, "training/n_rollouts_failed": 2.0}
    assert describe_step(row) == "reward 0.250  2 rollouts failed"
    assert describe_step({"step": 0}) == ""


def test_rewards_that_are_not_finite_do_not_stop_it():
    console = terminal()
    with Progress(3, console=console) as progress:
        progress.step_done({"step": 1, "critic/score/mean": float("nan")})
        progress.step_done({"step": 2, "critic/score/mean": 0.5})
        progress.step_done({"step": 3, "critic/score/mean": None})
    assert "3/3" in written(console)


def test_track_gives_all_items_and_a_line_for_each_tenth():
    console = plain()
    assert list(track(range(25), "fine-tuning", total=25, console=console)) == list(range(25))
    lines = written(console).splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("fine-tuning  25/25")
    assert list(track(iter("abc"), "few", total=3, console=terminal())) == ["a", "b", "c"]
