"""The critic, the editor, the reflecting model and the judge: what they reply to a request that was read.

They are as good as the family's rates say. Everything random is drawn from one generator that depends on what the
request holds, on the run's seed and on the sample's number.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from .answers import verdict
from .families import World, case_id
from .reading import CASE, Block, Request
from .words import BRACES, FILLERS, plain

Point = tuple[str, str, str]
"""`Add`, `Drop` or `Replace`; the line; the new line of a replacement."""
FULL_ATTENTION = 24_000
"""Characters that a model takes in whole."""
GENERAL = ("Be clearer about what is expected.", "Structure the prompt better.", "Say what a good answer looks like.")


def critique(world: World, request: Request, draw: random.Random) -> str:
    """A critic's reply: points, each on a line, in the words that the editor understands."""
    lines = ["The prompt leaves things open:"]
    for kind, line, new in _points(world, request, draw):
        lines.append(f'- {kind}: "{line}"' + (f' with "{new}"' if new else ""))
    if len(lines) == 1:
        lines.append(f"- {draw.choice(GENERAL)}")
    return "\n".join(lines)


def edit(world: World, request: Request, draw: random.Random) -> str:
    """An editor's reply: the prompt with the points of the critique worked in."""
    return _wrap(request, _edited(world, request, request.points, draw, 1.0), draw)


def reflect(world: World, request: Request, draw: random.Random) -> str:
    """Critic and editor in one reply; the more there is to read, the more gets lost."""
    load = min(4.0, 1 + len(request.text) / 8_000)
    return _wrap(request, _edited(world, request, _points(world, request, draw), draw, load), draw)


def judge(world: World, seed: int, text: str) -> str:
    """A grader's reply to a request that holds a case and an answer."""
    found = CASE.search(text)
    if found is None:
        return "Score: 0.00. There is no case."
    task = world.task(seed, int(found.group(1)))
    said = verdict(world, task, text.partition("Answer:")[2])
    return f"Score: {said.reward:.4f}. {said.feedback or f'{case_id(task.number)} was graded.'}"


# -- the critic -------------------------------------------------------------------------------------------------------


def _points(world: World, request: Request, draw: random.Random) -> list[Point]:
    if not request.blocks:
        return []
    block = request.blocks[0]
    weights = _suspects(world, request, block)
    attention = min(1.0, (FULL_ATTENTION / max(1, len(request.text))) ** 0.5)
    points: list[Point] = []
    for _ in range(draw.choices((1, 2, 3), (0.3, 0.4, 0.3))[0]):
        if draw.random() < world.family.misleading:
            points.append(_bad_advice(world, block, draw))
        elif draw.random() < world.family.acuity * attention and weights:
            (aspect,) = draw.choices(list(weights), list(weights.values()))
            weights.pop(aspect)
            points.append(_advice(world, block, aspect, draw))
    return points + _repairs(world, request, block, draw)


def _suspects(world: World, request: Request, block: Block) -> dict[str, float]:
    """Aspects -> how much speaks for them: named as wrong, or mentioned by cases with a low reward."""
    covered = {world.rules[known[0]].aspect for line in block.lines if (known := world.line_of.get(plain(line)))}
    concerned = {world.rules[rule].aspect for rule in world.of(block.role, useful=False)}
    weights: dict[str, float] = {}
    for case in request.cases:
        failed = 1.0 - case.reward if case.reward is not None else float(bool(case.named))
        for aspect in case.named or case.aspects:
            if aspect in concerned:
                # What feedback names counts even where enough was right; what cases without fault mention counts less.
                gained = 3.0 * max(failed, 0.3) if case.named else failed if failed > 0 else -0.5
                weights[aspect] = weights.get(aspect, 0.0) + gained * (0.25 if aspect in covered else 1.0)
    return {aspect: weight for aspect, weight in sorted(weights.items()) if weight > 0}


def _advice(world: World, block: Block, aspect: str, draw: random.Random) -> Point:
    rule = world.rules[world.by_aspect[aspect]]
    held = [line for line in block.lines if plain(line) in map(plain, rule.lines)]
    others = [line for line in rule.lines if plain(line) not in map(plain, held)]
    if held:
        return ("Replace", held[0], draw.choice(others)) if others else ("Drop", held[0], "")
    return "Add", draw.choice(rule.lines), ""


def _bad_advice(world: World, block: Block, draw: random.Random) -> Point:
    known = [line for line in block.lines if plain(line) in world.line_of]
    kind = draw.choice(("harmful", "filler", "drop")) if known else draw.choice(("harmful", "filler"))
    if kind == "drop":
        return "Drop", draw.choice(known), ""
    return "Add", draw.choice(world.harmful if kind == "harmful" else FILLERS), ""


def _repairs(world: World, request: Request, block: Block, draw: random.Random) -> list[Point]:
    """What broken answers and failures point at: advice that does damage, templates that can't be filled in."""
    found: list[Point] = []
    spoiled = sum(case.unusable for case in request.cases)
    for line in block.lines:
        rates = {"harmful": 0.6 if spoiled else 0.15, "filler": 0.15}
        broken = request.template_error and "{" in line
        if broken or draw.random() < rates.get(world.kind_of.get(plain(line), ""), 0.0):
            found.append(("Drop", line, ""))
    return found


# -- the editor -------------------------------------------------------------------------------------------------------


def _edited(world: World, request: Request, points: Sequence[Point], draw: random.Random, load: float) -> str:
    if not request.blocks:
        return draw.choice(GENERAL)
    family, block = world.family, request.blocks[0]
    places = [name for name in ("case", "plan") if name in request.places]
    old = list(dict.fromkeys(line for one in request.blocks for line in one.lines))
    if draw.random() < family.repeat:
        return world.compose(block.role, block.lines, places)
    todo = list(points[:1] if request.one_point else points)
    reword = 0.6 if request.paraphrase and not todo else family.reword
    lines = [_worded(world, line, reword, draw) for line in old if draw.random() >= family.forget * load]
    for kind, line, new in todo:
        if draw.random() < family.apply:
            lines = _applied(lines, kind, line, new)
    lines = _once(world, lines)
    if draw.random() < family.chatter * (1.0 if load == 1.0 else 1.5):
        lines.append(draw.choice(FILLERS))
    if draw.random() < family.slip:
        lines.append(BRACES)
    return world.compose(block.role, lines, [name for name in places if draw.random() >= family.lose])


def _worded(world: World, line: str, rate: float, draw: random.Random) -> str:
    known = world.line_of.get(plain(line))
    if known is None or draw.random() >= rate:
        return line
    return draw.choice([other for place, other in enumerate(world.rules[known[0]].lines) if place != known[1]])


def _applied(lines: list[str], kind: str, line: str, new: str) -> list[str]:
    if kind == "Add":
        return lines if plain(line) in map(plain, lines) else [*lines, line]
    return [new if new and plain(one) == plain(line) else one for one in lines if new or plain(one) != plain(line)]


def _once(world: World, lines: list[str]) -> list[str]:
    """Each thing said once: of several wordings of a rule the last stays, as it is the newest."""
    said = {(known[0] if (known := world.line_of.get(plain(line))) else plain(line)): line for line in lines}
    return list(said.values())


def _wrap(request: Request, prompt: str, draw: random.Random) -> str:
    """The reply in the form that was asked for; now and then with a word before it, or without the form."""
    if request.tag or request.fenced:
        if draw.random() < 0.03:
            return prompt
        inside = f"<{request.tag}>\n{prompt}\n</{request.tag}>" if request.tag else f"```\n{prompt}\n```"
        return f"Here is the new prompt.\n\n{inside}" if draw.random() < 0.3 else inside
    return prompt if draw.random() < 0.97 else re.sub("^", "```\n", prompt) + "\n```"
