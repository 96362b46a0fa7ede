"""Task families: hidden rules, tasks that need them, and the exact expected score of any prompt.

An answer gets several aspects of its case right or wrong. Each aspect that a case is graded on has a chance to come out
right without the instruction for it, and a larger one with it. From these chances follows the expected reward of a
prompt on a task, without sampling: `expected`. The server samples from the same chances; `reward` grades its answers.

Used by the server, by the agents (they know how to grade, as a real agent's grader does) and by the drivers' reports.
"""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from .words import ASPECTS, BRACES, FILLERS, HARMFUL, OPENING, PHRASINGS, plain

TRAIN, VAL, TEST = range(40), range(1000, 1032), range(5000, 5400)
"""Task numbers of the splits."""
SHARED: Final = "both"
"""Component of a prompt that serves several roles, for optimisers that can tune only one prompt."""
ROLES: Final = {"planner": "the planner", "writer": "the writer", SHARED: "planner and writer"}


@dataclass(frozen=True)
class Family:
    """What makes a family. All rates are probabilities."""

    name: str
    seed: int
    grading: Literal["all", "most", "share"]
    """Reward 1 if all graded aspects are right, 1 if at least 60 % are, or the share that is."""
    rules: int = 8
    """Hidden instructions of each component."""
    decoys: int = 4
    """Aspects of each component that cases mention, and that come out right anyway."""
    needs: tuple[int, int] = (1, 3)
    """Least and most graded aspects of a case, for each component."""
    skew: float = 0.7
    """Rule number r is needed with a weight of 1 / (r + 1)^skew."""
    components: tuple[str, ...] = ("prompt",)
    feedback: Literal["named", "vague", "none"] = "named"
    """Whether the grader says which aspects were wrong, that something was, or nothing."""
    judge: bool = False
    """Whether grade and feedback come by a call to a judge model, so that they are among the messages."""
    sampled: bool = False
    """Whether the agent asks at temperature 1: the same question then has several answers."""
    persistence: float = 0.4
    """Share of outcomes that do not change with the wording of the prompt."""
    without: tuple[float, float] = (0.1, 0.4)
    """Chance of an aspect that nobody asked for: drawn for each task and aspect from this range."""
    top: tuple[float, float] = (0.85, 1.0)
    """The same with the best instruction for it."""
    start_rules: int = 1
    """Rules that the start prompt holds, in a weak wording."""
    harm: float = 0.15
    """Each harmful line spoils so many answers altogether."""
    # How good the optimiser's models are here.
    acuity: float = 0.75
    """The critic says what it saw, rather than something general."""
    misleading: float = 0.12
    """A point of the critique is bad advice."""
    tells: float = 0.8
    """Named feedback names an aspect that was wrong."""
    apply: float = 0.8
    """The editor puts a point in."""
    forget: float = 0.04
    """The editor loses a line, for each line."""
    reword: float = 0.08
    """The editor words a line anew, for each line."""
    lose: float = 0.03
    """The editor loses a placeholder."""
    slip: float = 0.02
    """The editor adds a line that is no valid template."""
    repeat: float = 0.06
    """The editor returns what it was given."""
    chatter: float = 0.3
    """The editor adds a line that does nothing."""


@dataclass(frozen=True)
class Rule:
    """One hidden instruction. A decoy is one without use."""

    component: str
    aspect: str
    strengths: tuple[float, ...]
    """How well each wording works, from 0 to 1; all 0 for a decoy."""

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(pattern.format(self.aspect) for pattern in PHRASINGS)

    @property
    def best(self) -> str:
        return self.lines[self.strengths.index(max(self.strengths))]


@dataclass(frozen=True)
class Check:
    """An aspect that a task is graded on, and its chances."""

    rule: int
    without: float
    top: float


@dataclass(frozen=True)
class Task:
    """One case."""

    number: int
    text: str
    checks: tuple[Check, ...]
    shown: tuple[int, ...]
    """All aspects that the case mentions, as rules, decoys included."""


class World:
    """A family with its rules drawn."""

    def __init__(self, family: Family) -> None:
        self.family = family
        draw = random.Random(f"rules of {family.name} {family.seed}")
        aspects = draw.sample(ASPECTS, len(family.components) * (family.rules + family.decoys))
        self.rules: list[Rule] = []
        for component in family.components:
            for number in range(family.rules + family.decoys):
                strengths = draw.sample((1.0, 0.85, 0.65, 0.4), 4) if number < family.rules else [0.0] * 4
                self.rules.append(Rule(component, aspects.pop(), tuple(strengths)))
        self.harmful = draw.sample(HARMFUL, 5)
        self.by_aspect = {rule.aspect: number for number, rule in enumerate(self.rules)}
        self.line_of = {plain(line): (r, i) for r, rule in enumerate(self.rules) for i, line in enumerate(rule.lines)}
        self.kind_of = dict.fromkeys(map(plain, self.harmful), "harmful") | dict.fromkeys(map(plain, FILLERS), "filler")
        self.start = {name: self._start(name, draw) for name in family.components}
        self.oracle = {name: self._oracle(name) for name in family.components}
        self.limit = {name: 1.5 * len(split_prompt(self.oracle[name])[0]) for name in family.components}
        self.limit[SHARED] = sum(self.limit.values())

    def of(self, component: str, *, useful: bool) -> list[int]:
        """The numbers of a component's rules, with or without its decoys."""
        names = self.family.components if component == SHARED else (component,)
        return [
            n for n, rule in enumerate(self.rules) if rule.component in names and (any(rule.strengths) or not useful)
        ]

    def knows(self, line: str) -> bool:
        """Whether a line is one of this world's instructions."""
        key = plain(line)
        return key in self.line_of or key in self.kind_of or line.strip() in (BRACES, OPENING)

    def role(self, component: str) -> str:
        """The first line of each prompt: how all know whose it is."""
        if len(self.family.components) == 1:
            return f"You work at the {self.family.name} desk."
        return f"You are {ROLES[component]} at the {self.family.name} desk."

    def _start(self, name: str, draw: random.Random) -> str:
        known = draw.sample(self.of(name, useful=True), self.family.start_rules)
        weak = [self.rules[n].lines[self.rules[n].strengths.index(0.65)] for n in known]
        return self.compose(name, [OPENING, *weak])

    def _oracle(self, name: str) -> str:
        return self.compose(name, [self.rules[n].best for n in self.of(name, useful=True)])

    def compose(self, component: str, lines: Sequence[str], places: Sequence[str] | None = None) -> str:
        """A template of instructions, with its first line and its placeholders."""
        names = self.places(component) if places is None else places
        return "\n".join([self.role(component), *lines, *(f"{name.capitalize()}: {{{name}}}" for name in names)])

    def places(self, component: str) -> tuple[str, ...]:
        """The placeholders of a component's template."""
        return ("case",) if component == self.family.components[0] else ("case", "plan")

    @property
    def shared_start(self) -> str:
        """One prompt for all roles that holds what the start prompts hold."""
        lines = [line for text in self.start.values() for line in split_prompt(text)[0].split("\n")[1:]]
        return self.compose(SHARED, list(dict.fromkeys(lines)), ("case", "plan"))

    # -- tasks --------------------------------------------------------------------------------------------------------

    def task(self, seed: int, number: int) -> Task:
        """Task `number` of the dataset `seed`."""
        return _task(self, seed, number)

    def tasks(self, seed: int, numbers: Sequence[int]) -> list[Task]:
        """Tasks of a split."""
        return [self.task(seed, number) for number in numbers]

    # -- prompts and scores -------------------------------------------------------------------------------------------

    def read(self, body: str, component: str) -> Reading:
        """What a prompt's lines amount to."""
        strengths: dict[int, float] = {}
        keep = 1.0
        for line in sentences(body):
            key = plain(line)
            if (known := self.line_of.get(key)) is not None:
                rule, wording = known
                strengths[rule] = max(strengths.get(rule, 0.0), self.rules[rule].strengths[wording])
            elif self.kind_of.get(key) == "harmful":
                keep *= 1 - self.family.harm
        over = len(body) / self.limit[component] - 1
        return Reading(strengths, keep * max(0.4, 1 - 0.6 * max(0.0, over)))

    def expected(self, texts: Mapping[str, str], tasks: Sequence[Task]) -> float:
        """The exact mean reward of prompts (by component, or one under `SHARED`) over tasks.

        A prompt that `texts` lacks is the start's.
        """
        readings = self._readings(texts)
        return sum(self._expected(readings, task) for task in tasks) / len(tasks) if readings else 0.0

    def gain(self, texts: Mapping[str, str], tasks: Sequence[Task]) -> float:
        """Where prompts stand between the start (0) and the oracle (1)."""
        start, best = self.expected(self.start, tasks), self.expected(self.oracle, tasks)
        return (self.expected(texts, tasks) - start) / (best - start)

    def _readings(self, texts: Mapping[str, str]) -> dict[str, Reading] | None:
        """By component; `None` where a template can't be filled in, which fails every rollout."""
        found: dict[str, Reading] = {}
        for name in self.family.components:
            whose = SHARED if SHARED in texts else name
            try:
                filled = texts.get(whose, self.start.get(name, "")).format(case="\0case", plan="\0plan")
            except (KeyError, IndexError, ValueError):
                return None
            body, fields = split_prompt(filled)
            found[name] = self.read(body, whose)
            if "\0case" not in fields["case"]:
                found[name].keep = 0.0
            if len(found) == 2 and "\0plan" not in fields["plan"]:
                found[self.family.components[0]].keep = 0.0
        return found

    def _expected(self, readings: Mapping[str, Reading], task: Task) -> float:
        first, last = readings[self.family.components[0]], readings[self.family.components[-1]]
        whole = self._graded(task, readings, "")
        if first is last:
            return last.keep * whole
        return last.keep * (first.keep * whole + (1 - first.keep) * self._graded(task, readings, "planner"))

    def _graded(self, task: Task, readings: Mapping[str, Reading], spoiled: str) -> float:
        chances = [
            0.0 if (name := self.rules[check.rule].component) == spoiled else chance(check, readings[name])
            for check in task.checks
        ]
        return _mean_grade(self.family.grading, chances)


@dataclass
class Reading:
    """What a prompt amounts to."""

    strengths: dict[int, float]
    """Rule -> how well its best wording in the prompt works."""
    keep: float
    """Chance that an answer is not spoiled altogether."""


def chance(check: Check, reading: Reading) -> float:
    """That an aspect comes out right."""
    return check.without + (check.top - check.without) * reading.strengths.get(check.rule, 0.0)


def sentences(body: str) -> list[str]:
    """The instructions of a prompt."""
    return re.split(r"\n|(?<=[.!?]) +", body)


def split_prompt(text: str) -> tuple[str, dict[str, str]]:
    """The instructions of a prompt, and what its lines `Case:` and `Plan:` hold."""
    fields = {"case": "", "plan": ""}
    body: list[str] = []
    for line in text.split("\n"):
        name, colon, rest = line.partition(":")
        if colon and (key := name.strip().lower()) in fields:
            fields[key] += rest
        else:
            body.append(line)
    return "\n".join(body), fields


@functools.lru_cache(maxsize=100_000)
def _task(world: World, seed: int, number: int) -> Task:
    family = world.family
    draw = random.Random(f"task of {family.name} {family.seed} {seed} {number}")
    checks: list[Check] = []
    shown: list[int] = []
    for component in family.components:
        useful = world.of(component, useful=True)
        weights = [(place + 1) ** -family.skew for place in range(len(useful))]
        wanted: list[int] = []
        count = draw.randint(*family.needs)
        while len(wanted) < count:
            (rule,) = draw.choices(useful, weights)
            wanted += [] if rule in wanted else [rule]
        checks += [Check(rule, draw.uniform(*family.without), draw.uniform(*family.top)) for rule in wanted]
        decoys = [rule for rule in world.of(component, useful=False) if rule not in useful]
        shown += [*wanted, *draw.sample(decoys, min(len(decoys), draw.randint(1, 2)))]
    draw.shuffle(shown)
    named = ", ".join(world.rules[rule].aspect for rule in shown)
    return Task(number, f"{case_id(number)} is about {named}.", tuple(checks), tuple(shown))


def case_id(number: int) -> str:
    """How texts name a task."""
    return f"case-{number:04d}"


def _mean_grade(grading: str, chances: Sequence[float]) -> float:
    """Expected reward of independent chances."""
    if grading == "share":
        return sum(chances) / len(chances)
    if grading == "all":
        return math.prod(chances)
    counts = [1.0]  # the distribution of how many are right
    for p in chances:
        counts = [a * (1 - p) + b * p for a, b in zip([*counts, 0.0], [0.0, *counts], strict=True)]
    return sum(counts[_enough(len(chances)) :])


def _enough(checks: int) -> int:
    return math.ceil(0.6 * checks)


def grade(grading: str, right: Sequence[bool]) -> float:
    """Reward of one answer: for each graded aspect, whether it is right."""
    if grading == "share":
        return sum(right) / len(right)
    return float(sum(right) >= (len(right) if grading == "all" else _enough(len(right))))
