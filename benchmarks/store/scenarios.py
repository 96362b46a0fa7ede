"""What `compare.py` runs: scenarios, their sides and the targets. The sides of a scenario run in turn, there and back.

A side is a driver with its flags, in our environment or in that of Agent-Lightning 0.3. A row of the table takes one
figure of a side, sets it beside the same figure of another one, and says what is asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Side:
    """A driver with its flags; `quick` replaces some of them in a quick run. `peer`: in upstream's environment."""

    command: str
    quick: str = ""
    peer: bool = False


@dataclass
class Row:
    """One line of the table.

    Args:
        side: Whose figure it is.
        figure: Its name in the driver's report.
        target: What is asked: `ratio >= x`, `value <= x`, `value >= x` or `part >= x`.
        against: The side of the ratio, or the figure of the same side that `part` divides by.
        less: Whether less is better; ratios are then turned round, so that more is always better.
    """

    side: str
    figure: str
    target: str = ""
    against: str = "0.3"
    less: bool = False


@dataclass
class Scenario:
    """Sides that are compared with each other, and the rows they give."""

    title: str
    sides: dict[str, Side]
    rows: list[Row] = field(default_factory=list)


HOMES = ("memory", "sqlite")
OPERATIONS = (
    "start_rollout",
    "add_span",
    "heartbeat",
    "query_spans",
    "update_attempt",
    "get_rollout_by_id",
    "get_latest_resources",
    "enqueue_rollout",
    "dequeue_rollout",
    "update_worker",
    "16 at a time",
)
QUERIES = ("by status", "by part of the id", "by 10 ids", "by status, sorted", "by status, 16 at a time")


IN_PROCESS = {"0.3": "--tracer default", "0.3 with OtelTracer": "", "0.3, plain Trainer()": "--tracer plain"}
"""Upstream in the same process with its default tracer (AgentOps) and with the one that both have, which is faster; and
as its users write it, which runs a process for the runner beside the one for the algorithm."""


def _loop(
    title: str, flags: str, tasks: tuple[int, int], ours: str = "", peers: dict[str, str] = IN_PROCESS
) -> Scenario:
    """The whole loop on both homes against theirs, with so many tasks for ours and for theirs."""
    sides = {home: Side(f"loop.py --home {home} --tasks {tasks[0]} {flags} {ours}", "--tasks 500") for home in HOMES}
    for name, more in peers.items():
        sides[name] = Side(f"loop.py --tasks {tasks[1]} {flags} {more}", "--tasks 200", peer=True)
    asked = {"memory": "ratio >= 5", "sqlite": "ratio >= 2"}
    rows = [Row(home, "rollouts_per_s", asked[home], against=name) for name in peers for home in HOMES]
    return Scenario(title, sides, rows)


def _processes(count: int) -> Scenario:
    title = f"whole loop, {count} runner process{'es' if count > 1 else ''}"
    scenario = _loop(title, f"--processes {count}", (2000, 500), peers={"0.3": ""})
    scenario.rows += [Row(home, "first_s", "ratio >= 5", less=True) for home in HOMES]
    return scenario


def _shape(name: str, title: str, memory: str, sqlite: str, quick: int) -> Scenario:
    sides = {home: Side(f"shapes.py --shape {name} --home {home} --processes 4", f"--tasks {quick}") for home in HOMES}
    targets = {"memory": memory, "sqlite": sqlite}
    return Scenario(title, sides, [Row(h, "rollouts_per_s", targets[h], against="allowed_per_s") for h in HOMES])


def _over_http(what: str, title: str, figures: tuple[str, ...], counts: tuple[int, int], *asked: float) -> Scenario:
    driver = f"over_http.py --what {what}"
    sides = {home: Side(f"{driver} --home {home} --count {counts[0]}", "--count 50") for home in HOMES}
    sides["0.3"] = Side(f"{driver} --count {counts[1]}", "--count 10", peer=True)
    rows = [Row(h, name, f"ratio >= {x:g}") for name in figures for h, x in zip(HOMES, asked, strict=True)]
    return Scenario(title, sides, rows)


def _sleeping() -> Scenario:
    sleep = "loop.py --sleep 0.05 --home memory"
    return Scenario(
        "agent that sleeps 50 ms",
        {
            "1 runner": Side(f"{sleep} --processes 1 --tasks 100", "--tasks 40"),
            "4 runners": Side(f"{sleep} --processes 4 --tasks 400", "--tasks 160"),
            "1 runner of 64": Side(f"{sleep} --concurrency 64 --tasks 3200", "--tasks 1600"),
            "0.3": Side(f"{sleep} --processes 1 --tasks 100", "--tasks 40", peer=True),
        },
        [
            Row("1 runner", "rollouts_per_s"),
            Row("4 runners", "rollouts_per_s", "ratio >= 3.5", against="1 runner"),
            Row("1 runner of 64", "rollouts_per_s", "ratio >= 40"),
        ],
    )


def _dev() -> Scenario:
    sides = {"own": Side("dev.py"), "0.3": Side("dev.py", peer=True)}
    return Scenario("dev() on 8 trivial tasks", sides, [Row("own", "dev_s", "ratio >= 5", less=True)])


def _latency() -> Scenario:
    sides = {
        f"{home}, {where}": Side(f"latency.py --home {home} --processes {count} --count 100", "--count 20")
        for home in HOMES
        for where, count in (("in process", 0), ("1 process", 1))
    }
    rows = [Row(side, "p50_ms", "value <= 20", less=True) for side in sides]
    rows += [Row(side, "p95_ms", less=True) for side in sides]
    sides["0.3"] = Side("latency.py --count 4", peer=True)
    return Scenario("enqueue to agent code", sides, rows)


def _resident() -> Scenario:
    quick = "--before 15000 --rollouts 20000"
    sides = {home: Side(f"resident.py --home {home}", quick) for home in HOMES}
    sides["0.3"] = Side("resident.py", quick, peer=True)
    rows = [Row(home, "grown_mib", "value <= 10", less=True) for home in HOMES]
    return Scenario("memory over 100,000 rollouts", sides, rows)


def _importing() -> Scenario:
    rows = [
        Row("own", "import_s", "value <= 0.5", less=True),
        Row("own", "import_mib", "value <= 60", less=True),
        Row("own", "names_s", less=True),
        Row("own", "names_mib", less=True),
    ]
    sides = {"own": Side("importing.py"), "0.3": Side("importing.py", peer=True)}
    return Scenario("import agentlightning", sides, rows)


SCENARIOS = {
    "loop": _loop("whole loop, in process", "", (3000, 1000)),
    "loop-async": _loop("the same, async agent", "--agent async", (3000, 1000)),
    "loop-16": _loop("the same, 16 at once (ours)", "--agent async", (5000, 1000), ours="--concurrency 16"),
    "loop-1": _processes(1),
    "loop-4": _processes(4),
    "dev": _dev(),
    "sleep": _sleeping(),
    "minimal": _shape("minimal", "Minimal (32 runners, 6 turns)", "part >= 0.85", "part >= 0.85", 64),
    "medium": _shape("medium", "Medium (100, 10)", "part >= 0.85", "part >= 0.85", 1000),
    "midhigh": _shape("midhigh", "Mid-high (300, 6)", "value >= 244.2", "value >= 122.1", 2048),
    "large": _shape("large", "Large (1000, 3)", "value >= 146", "value >= 73", 4096),
    "longqueue": _shape("longqueue", "Long queue (256, 4)", "value >= 308.6", "value >= 154.3", 3072),
    "heavy": _shape("heavy", "Heavy trace (512, 20)", "part >= 0.85", "part >= 0.85", 512),
    "single": _over_http("single", "HTTP, single operations", OPERATIONS, (300, 200), 3, 1),
    "bulk": _over_http("bulk", "HTTP, bulk spans", ("spans", "small spans"), (100, 5), 30, 30),
    "queries": _over_http("queries", "HTTP, queries over 6,000 rollouts", QUERIES, (300, 100), 20, 2),
    "latency": _latency(),
    "resident": _resident(),
    "import": _importing(),
}
"""By the names that `compare.py --only` takes. The shapes' values are 10 times (SQLite: 5 times) the rollouts per
second that upstream published for v0.3.0 on 32 and 64 cores with its memory store: 24.42, 14.60 and 30.86."""
