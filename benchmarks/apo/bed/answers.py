"""Answers of the task model, and how they are graded. Used by the server (to answer) and by the agents (to grade)."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from .families import Task, World, case_id, chance, grade, split_prompt

TOKEN = re.compile(r"\b([a-z]+)=([A-Z]{4})\b")
NO_ANSWER = "I cannot say."


class Verdict(NamedTuple):
    """What a grader finds."""

    reward: float
    feedback: str
    """Empty where the family's grader says nothing."""


def answer(world: World, task: Task | None, prompt: str, component: str, role: str, seed: int, sample: int) -> str:
    """What the task model says to a prompt with everything filled in.

    Args:
        world: The family.
        task: The case, if the prompt shows one.
        prompt: Rendered.
        component: Which part of the work is asked for.
        role: Whose prompt it is: `component`, or `SHARED`.
        seed: Of dataset and noise.
        sample: 0, or the how manieth answer to the same question.
    """
    body, fields = split_prompt(prompt)
    if task is None:
        return NO_ANSWER
    reading = world.read(body, role)
    own = f"{body}\0{sample}"
    if _draw(world, seed, task.number, f"keep {component}", own) >= reading.keep:
        return NO_ANSWER
    checks = {check.rule: check for check in task.checks}
    said: list[str] = []
    for rule in task.shown:
        if world.rules[rule].component == component:
            right = rule not in checks or _draw(world, seed, task.number, str(rule), own) < chance(
                checks[rule], reading
            )
            said.append(f"{(aspect := world.rules[rule].aspect)}={token(task.number, aspect, right=right)}")
    planned = TOKEN.findall(fields["plan"]) if component != world.family.components[0] else []
    said += [f"{aspect}={value}" for aspect, value in planned]
    return f"{case_id(task.number)}: {'; '.join(said)}."


def verdict(world: World, task: Task, text: str) -> Verdict:
    """Grade an answer."""
    said = dict(TOKEN.findall(text))
    graded = {world.rules[check.rule].aspect: check for check in task.checks}
    wrong = [aspect for aspect in graded if said.get(aspect) != token(task.number, aspect, right=True)]
    reward = grade(world.family.grading, [aspect not in wrong for aspect in graded])
    return Verdict(reward, _feedback(world, task, text, wrong))


def _feedback(world: World, task: Task, text: str, wrong: list[str]) -> str:
    family = world.family
    if family.feedback == "none":
        return ""
    name = case_id(task.number)
    if not TOKEN.search(text):
        return f"{name}: there is no usable answer."
    if not wrong:
        return f"{name}: all is right."
    # A grader that overlooks something overlooks it in the same answer each time.
    told = [aspect for aspect in wrong if _unit(f"tell {text} {aspect}") < family.tells]
    if family.feedback == "vague" or not told:
        return f"{name}: part of the answer is wrong."
    return f"{name}: {', '.join(f'the {aspect} are wrong' for aspect in told)}."


def token(number: int, aspect: str, *, right: bool) -> str:
    """What an answer says about an aspect of a case."""
    digest = hashlib.blake2b(f"{number} {aspect} {right}".encode(), digest_size=4).digest()
    return "".join(chr(ord("A") + byte % 26) for byte in digest)


def _draw(world: World, seed: int, number: int, what: str, own: str) -> float:
    """Uniform, equal for all wordings of a prompt in a share of the cases (`persistence`), else for this one alone."""
    place = f"{world.family.name} {world.family.seed} {seed} {number} {what}"
    if _unit(f"persists {place}") < world.family.persistence:
        return _unit(place)
    return _unit(f"{place} {own}")


def _unit(text: str) -> float:
    """Uniform on [0, 1), by a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest()) / 2**56
