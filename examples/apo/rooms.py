"""The house: its rooms, what is booked, requests for rooms, and who judges a choice.

Everything follows from a seed. The rules of the house are known to the judge and not to the agent; what the judge says
of a choice is all that an optimiser has to go by.
"""

from __future__ import annotations

import random
import re
from typing import Any, NamedTuple

EQUIPMENT = ("screen", "whiteboard", "phone", "camera")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
HOURS = range(9, 17)
NONE = "NONE"
"""What to answer where no room will do."""


class Room(NamedTuple):
    """One room."""

    id: str
    seats: int
    equipment: tuple[str, ...]
    step_free: bool


ROOMS = (
    Room("A1", 4, ("phone",), True),
    Room("A2", 4, ("screen",), False),
    Room("A3", 6, ("screen", "phone"), True),
    Room("B1", 6, ("whiteboard",), False),
    Room("B2", 8, ("screen", "whiteboard"), True),
    Room("B3", 8, ("screen", "camera", "phone"), False),
    Room("C1", 12, ("screen", "whiteboard", "phone"), True),
    Room("C2", 12, ("screen", "camera"), True),
    Room("C3", 20, ("screen", "whiteboard", "phone", "camera"), True),
)
_ID = re.compile(r"\b[ABC][1-9]\b")


def requests(split: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Tasks: each a request in words, and what it asks for.

    Args:
        split: `train`, `val` or `test`; another split, other requests.
        count: How many.
        seed: Of the requests.
    """
    rng = random.Random(f"{seed} {split}")
    return [_request(rng) for _ in range(count)]


def _request(rng: random.Random) -> dict[str, Any]:
    people, needs = rng.randint(2, 12), sorted(rng.sample(EQUIPMENT, rng.choice((0, 1, 1, 2))))
    day, hour, step_free = rng.choice(DAYS), rng.choice(HOURS), rng.random() < 0.3
    wish = f" We need a {' and a '.join(needs)}." if needs else ""
    wheels = " One of us uses a wheelchair." if step_free else ""
    asked = f"A room for {people} people on {day} at {hour}:00, please.{wish}{wheels}"
    return {"request": asked, "people": people, "needs": needs, "step_free": step_free, "day": day, "hour": hour}


def is_free(room: Room, day: str, hour: int) -> bool:
    """Whether nobody has booked it; about every third hour of a room is taken."""
    return random.Random(f"{room.id} {day} {hour}").random() > 0.35


def find_rooms(day: str, hour: int) -> list[dict[str, Any]]:
    """All rooms as the booking system shows them; what the agent's tool returns."""
    return [{**room._asdict(), "free": is_free(room, day, hour)} for room in ROOMS]


def right_room(task: dict[str, Any]) -> str:
    """The room that the house would give: the smallest of those that will do."""
    fitting = [room for room in ROOMS if not objections(room, task)]
    return min(fitting, key=lambda room: room.seats).id if fitting else NONE


def objections(room: Room, task: dict[str, Any]) -> list[str]:
    """Why a room will not do."""
    found: list[str] = []
    if not is_free(room, task["day"], task["hour"]):
        found.append(f"{room.id} is booked at that time")
    if room.seats < task["people"] + 1:
        found.append(f"{room.id} has {room.seats} seats; the house wants one spare seat, {task['people'] + 1} here")
    if lacking := [each for each in task["needs"] if each not in room.equipment]:
        found.append(f"{room.id} has no {' and no '.join(lacking)}")
    if task["step_free"] and not room.step_free:
        found.append(f"{room.id} can't be reached without steps")
    return found


def judge(task: dict[str, Any], answer: str) -> tuple[float, str]:
    """How good an answer is, from 0 to 1, and what is to be said about it."""
    right, named = right_room(task), sorted(set(_ID.findall(answer)))
    if not named and re.search(rf"\b{NONE}\b", answer):
        return (1.0, "right: no room will do") if right == NONE else (0.0, f"there is a room that will do, {right}")
    if len(named) != 1:
        return 0.0, f"name exactly one room by its id, or {NONE} where none will do; the answer names {len(named)}"
    room = next((room for room in ROOMS if room.id == named[0]), None)
    if room is None:
        return 0.0, f"there is no room {named[0]}"
    if wrong := objections(room, task):
        return round(0.3 / len(wrong), 2), "; ".join(wrong)
    if room.seats != next(each.seats for each in ROOMS if each.id == right):
        return 0.6, f"{room.id} will do, but {right} is smaller: the house gives the smallest room that will do"
    return 1.0, "right"
