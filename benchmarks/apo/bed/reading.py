"""What a model reads out of a request: prompts, cases, rewards, feedback, points of a critique.

The critic and the editor of this world know nothing but what is found here, so nothing that a request does not hold can
reach them. The formats of three optimisers are read (ours, upstream's, gepa's), by what they share: the sentences of
this world, names of cases, and numbers after words such as "reward".
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import Any, Final

from .families import SHARED, World, split_prompt

CASE: Final = re.compile(r"\bcase-(\d{4})\b")
ABOUT: Final = re.compile(r"\bcase-(\d{4}) is about ([a-z, ]+)\.")
NAMED: Final = re.compile(r"\bcase-(\d{4}): ((?:the [a-z]+ are wrong(?:, )?)+)")
UNUSABLE: Final = re.compile(r"\bcase-(\d{4}): there is no usable answer")
REWARD: Final = re.compile(
    r"(?i)\b(?:final[ _])?(?:reward|score)\b[^\w\n-]{0,6}(?:of |is |was )?[\"'`*]{0,2}(-?\d+(?:\.\d+)?)\b(?!\.?[a-z_])"
)
TEMPLATE_ERROR: Final = re.compile(r"KeyError|IndexError|ValueError|can't be filled|cannot be (?:filled|formatted)")
POINT: Final = re.compile(r'\b(Add|Drop|Replace): "([^"\n]+)"(?: with "([^"\n]+)")?')
ONE_POINT: Final = re.compile(r"ONE critique point|[Aa]ddress (?:only )?one point")
PARAPHRASE: Final = re.compile(
    r"(?i)paraphras|rephras|other words|different words|same meaning|keep(?:ing)? (?:its|the) meaning"
)
PLACE: Final = re.compile(r"\{(case|plan)\}")
TAG: Final = re.compile(r"<([a-z_]{3,20})>(?:(?!\n).){0,40}</\1>")


@dataclass(frozen=True)
class Block:
    """A prompt that a request holds."""

    role: str
    """Component, or `SHARED`."""
    lines: tuple[str, ...]
    """Its instructions, without the first line and the placeholders."""
    template: bool
    """Whether its placeholders are unfilled: the thing to be worked on, rather than a call of the agent."""


@dataclass
class Seen:
    """What a request says about one case."""

    number: int
    aspects: tuple[str, ...] = ()
    """Those that it mentions."""
    reward: float | None = None
    named: tuple[str, ...] = ()
    """Aspects that feedback calls wrong."""
    unusable: bool = False


@dataclass
class Request:
    """What a request holds."""

    text: str
    blocks: list[Block] = field(default_factory=list[Block])
    """Prompts to work on, each once; all of one role."""
    cases: list[Seen] = field(default_factory=list[Seen])
    points: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    places: tuple[str, ...] = ()
    """Placeholders that are mentioned."""
    one_point: bool = False
    paraphrase: bool = False
    template_error: bool = False
    tag: str = ""
    """The reply is asked for between these tags."""
    fenced: bool = False
    """The reply is asked for between fences."""

    @property
    def key(self) -> str:
        """What makes two requests the same to this world; ids and times are none of it."""
        cases = sorted((c.number, c.reward, c.named, c.unusable) for c in self.cases)
        return repr(
            (self.blocks, cases, self.points, self.places, self.one_point, self.paraphrase, self.template_error)
        )


def text_of(messages: list[dict[str, Any]]) -> str:
    """All that a request says; escapes of JSON and HTML undone, however often they were applied."""
    parts: list[str] = []
    for message in messages:
        content = message.get("content") or ""
        pieces = [content] if isinstance(content, str) else [piece.get("text", "") for piece in content]
        parts += pieces
    text = re.sub(r"\\+n", "\n", "\n".join(parts))
    text = re.sub(r'\\+"', '"', text)
    text = re.sub(r"\breward\.\d+\.value\b", "reward", text)  # an attribute of a reward's span
    return html.unescape(text) if "&" in text else text


def read(world: World, messages: list[dict[str, Any]]) -> Request:
    """Read a request to the critic or the editor."""
    text = text_of(messages)
    tags = TAG.findall(text)
    return Request(
        text,
        _blocks(world, text),
        _cases(text),
        POINT.findall(text),
        tuple(sorted(set(PLACE.findall(text)))),
        bool(ONE_POINT.search(text)),
        bool(PARAPHRASE.search(text)),
        bool(TEMPLATE_ERROR.search(text)),
        tags[-1] if tags else "",
        "within ```" in text,
    )


def _blocks(world: World, text: str) -> list[Block]:
    roles = {
        world.role(name): name
        for name in (*world.family.components, *([SHARED] if len(world.family.components) > 1 else []))
    }
    starts = list(re.finditer("|".join(map(re.escape, roles)), text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    found = [_block(world, roles[m.group()], text[m.end() : end]) for m, end in zip(starts, ends, strict=True)]
    templates = [block for block in found if block.template] or found
    same = [block for block in templates if block.role == templates[0].role]
    return list(dict.fromkeys(same))


def _block(world: World, role: str, text: str) -> Block:
    lines: list[str] = []
    template = False
    for line in text.split("\n")[1:]:
        _, fields = split_prompt(line)
        if fields["case"] or fields["plan"]:
            template = template or bool(PLACE.search(line))
            break
        lines.append(line.strip())
    else:
        lines = _known(world, lines)
    return Block(role, tuple(line for line in lines if line), template)


def _known(world: World, lines: list[str]) -> list[str]:
    """The lines up to the first that is none of an instruction: where a prompt ends that lost its last line."""
    for place, line in enumerate(lines):
        if not world.knows(line):
            return lines[:place]
    return lines


def _cases(text: str) -> list[Seen]:
    first: dict[int, int] = {}
    for match in CASE.finditer(text):
        first.setdefault(int(match.group(1)), match.start())
    found = {number: Seen(number) for number in first}
    for number, aspects in ABOUT.findall(text):
        found[int(number)].aspects = tuple(aspects.split(", "))
    for number, named in NAMED.findall(text):
        found[int(number)].named = tuple(re.findall(r"the ([a-z]+) are wrong", named))
    for number in UNUSABLE.findall(text):
        found[int(number)].unusable = True
    _rewards(text, first, found)
    return list(found.values())


def _rewards(text: str, first: dict[int, int], found: dict[int, Seen]) -> None:
    """Give each case its reward: the first one after it, or the last one before it where a list puts rewards first."""
    rewards = [(match.start(), float(match.group(1))) for match in REWARD.finditer(text)]
    places = sorted((place, number) for number, place in first.items())
    if not rewards or not places:
        return
    follow = rewards[-1][0] > places[-1][0]
    for index, (place, number) in enumerate(places):
        before = places[index - 1][0] if index else -1
        after = places[index + 1][0] if index + 1 < len(places) else len(text)
        if follow:
            near = [value for at, value in rewards if place < at < after][:1]
        else:
            near = [value for at, value in rewards if before < at < place][-1:]
        found[number].reward = near[0] if near else None
