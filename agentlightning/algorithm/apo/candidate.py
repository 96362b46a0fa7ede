"""`Candidate`: one text for each prompt that is tuned, and where it came from. Plain data, read by all of `apo`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Candidate:
    """A full set of prompts. Two with the same texts are the same candidate."""

    id: str
    """`v0` is the start; then `v1`, `v2`, ... in the order in which candidates were admitted."""
    texts: Mapping[str, str]
    """Resource name -> template text, for the tuned prompts."""
    parents: tuple[str, ...] = ()
    """Ids; several where prompts of several candidates were merged."""
    operator: str = "seed"
    """What made it: `seed`, `critique`, `reflect`, `paraphrase`, `merge`, `history`."""
    round: int = 0
    """In which round, from 1; 0 for the start."""
    component: str = ""
    """Which of the prompts was changed; empty for the start and for a merge."""
    why: str = ""
    """The critique or reflection that led to it."""

    @property
    def key(self) -> str:
        """Hash of the texts: what rollouts are cached by."""
        return content_key(dict(self.texts))


@dataclass(frozen=True, slots=True)
class Proposal:
    """Texts that a proposer suggests; it becomes a candidate when nothing speaks against it."""

    texts: Mapping[str, str]
    parents: tuple[Candidate, ...]
    operator: str
    component: str = ""
    why: str = ""


def content_key(value: object) -> str:
    """16 hex digits that depend on a JSON value alone; keys of mappings in any order."""
    # What a task holds may be no JSON value: its text stands for it.
    data = orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    return hashlib.blake2b(data, digest_size=8).hexdigest()
