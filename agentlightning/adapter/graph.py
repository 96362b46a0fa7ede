"""`TokenGraph`: the LLM calls of one rollout, joined where one continues another token for token.

Called by `trajectory`. A call's prompt is joined to the longest earlier context (prompt and response of a call) that is
a prefix of it; calls with the very same prompt share it. Calls of different models never join. What can't be joined
begins a tree of its own, so interleaved sub-agents, several samples of a prompt, compacted contexts and rewritten
histories need no special care: a node holds only the tokens it adds, a leaf is a branch, and a path from root to leaf
is exactly what the engine saw.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from agentlightning.types import PrefixBreak, TokenCall, Trajectory
from agentlightning.types.tokens import Int32

from .breaks import context_of, find_break


@dataclass(slots=True, eq=False)
class Node:
    """A run of tokens that follows its parent's."""

    parent: int | None
    """Index of the node before it; `None`: a root."""
    token_ids: Int32
    """(N,) what this node adds; may be empty."""
    turn: int | None
    """The call that sampled these tokens; `None`: they were given to the engine."""
    leaf: bool = True


class TokenGraph:
    """The calls of one rollout as trees of tokens.

    Args:
        calls: In the order in which they ended (`sequence_id`); more can be `add`ed.
    """

    def __init__(self, calls: Iterable[TokenCall] = ()) -> None:
        self.calls: list[TokenCall] = []
        """A call's position here is its turn."""
        self.nodes: list[Node] = []
        self.breaks: list[PrefixBreak] = []
        """The turns that should have continued an earlier one token for token and do not."""
        self._ends: list[int] = []  # by turn: the node of its response
        self._contexts: list[tuple[int, int]] = []  # (length, turn), sorted
        self._prompts: dict[int, list[int]] = {}  # prompt length -> turns
        for call in calls:
            self.add(call)

    def add(self, call: TokenCall) -> int:
        """Join a call to the graph.

        Returns:
            Its turn.
        """
        turn = len(self.calls)
        prompt_node = self._shared_prompt(call)
        if prompt_node is None:
            parent = self._longest_context(call)
            known = 0 if parent is None else _length(self.calls[parent])
            prompt_node = self._append(None if parent is None else self._ends[parent], call.prompt_ids[known:], None)
            if (found := find_break(self.calls, call, parent)) is not None:
                self.breaks.append(found)
        self.calls.append(call)
        self._ends.append(self._append(prompt_node, call.response_ids, turn))
        insort(self._contexts, (_length(call), turn))
        self._prompts.setdefault(len(call.prompt_ids), []).append(turn)
        return turn

    def path(self, turn: int) -> list[Node]:
        """The nodes from the root to the response of `turn`; their tokens are the call's prompt and response."""
        found: list[Node] = []
        index: int | None = self._ends[turn]
        while index is not None:
            found.append(self.nodes[index])
            index = self.nodes[index].parent
        return found[::-1]

    def assemble(self) -> tuple[list[Trajectory], list[TokenCall]]:
        """One trajectory a leaf, in order of turns, and the calls as views into them.

        The returned calls equal `calls`, but their tokens lie within the trajectories: a conversation is held in memory
        once and not once a turn.
        """
        trajectories: list[Trajectory] = []
        calls = list(self.calls)
        claimed = [False] * len(calls)
        for leaf in (node for node in self.nodes if node.leaf and node.turn is not None):
            assert leaf.turn is not None
            trajectories.append(self._trajectory(leaf.turn, claimed, calls))
        return trajectories, calls

    # -- joining ----------------------------------------------------------------------------------------------------

    def _append(self, parent: int | None, token_ids: Int32, turn: int | None) -> int:
        # A slice of a prompt would keep the whole prompt alive.
        self.nodes.append(Node(parent, token_ids.copy() if turn is None else token_ids, turn))
        if parent is not None:
            self.nodes[parent].leaf = False
        return len(self.nodes) - 1

    def _shared_prompt(self, call: TokenCall) -> int | None:
        for turn in self._prompts.get(len(call.prompt_ids), ()):
            earlier = self.calls[turn]
            if earlier.model == call.model and _equal(earlier.prompt_ids, call.prompt_ids):
                node = self.nodes[self._ends[turn]].parent
                assert node is not None
                before = self.nodes[node].parent
                sampler = None if before is None else self.nodes[before].turn
                if sampler is None or self._may_follow(call, self.calls[sampler]):
                    return node
        return None

    def _longest_context(self, call: TokenCall) -> int | None:
        fitting = bisect_right(self._contexts, (len(call.prompt_ids), len(self.calls)))
        for _, turn in reversed(self._contexts[:fitting]):
            earlier = self.calls[turn]
            if self._may_follow(call, earlier) and _continues(call.prompt_ids, earlier):
                return turn
        return None

    @staticmethod
    def _may_follow(call: TokenCall, earlier: TokenCall) -> bool:
        # A call of older weights that ended later only looks like a continuation: the weights were not there yet.
        # Another model's tokens are no tokens of this one, even where the numbers agree.
        return earlier.weights_version <= call.weights_version and earlier.model == call.model

    # -- reading ----------------------------------------------------------------------------------------------------

    def _trajectory(self, leaf_turn: int, claimed: list[bool], calls: list[TokenCall]) -> Trajectory:
        token_ids = np.concatenate([node.token_ids for node in self.path(leaf_turn)])
        trained: dict[int, TokenCall] = {}
        for node in self.path(leaf_turn):
            if node.turn is None or claimed[node.turn]:
                continue
            claimed[node.turn] = True
            call = self.calls[node.turn]
            start, end = len(call.prompt_ids), _length(call)
            trained[node.turn] = calls[node.turn] = replace(
                call, prompt_ids=token_ids[:start], response_ids=token_ids[start:end]
            )
        return Trajectory(token_ids, trained)


def _length(call: TokenCall) -> int:
    return len(call.prompt_ids) + len(call.response_ids)


def _continues(prompt: Int32, earlier: TokenCall) -> bool:
    start, end = len(earlier.prompt_ids), _length(earlier)
    if not 0 < end <= len(prompt) or prompt[end - 1] != context_of(earlier, end - 1):
        return False  # the last token alone rules out nearly all
    return _equal(prompt[start:end], earlier.response_ids) and _equal(prompt[:start], earlier.prompt_ids)


def _equal(a: Int32, b: Int32) -> bool:
    return len(a) == len(b) and bool((a == b).all())
