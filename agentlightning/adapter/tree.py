"""`TraceTree`: the spans of one attempt as a tree, with the agents and LLM calls in it.

Called by the triplet adapters, and by `trajectory` for the names of agents. The gateway and other programs write spans
without knowing what surrounds them; `repair_hierarchy` hangs such spans below the tightest span that encloses them in
time.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from agentlightning.emitter import get_reward_value
from agentlightning.semconv import AGL_VIRTUAL, LLM_CALL_SPAN
from agentlightning.types import Span

from .reading import agent_name, answer_key, order, without_twins

NO_AGENT = "*"
"""Agent name of calls that no agent's span encloses."""


class RewardMatchPolicy(StrEnum):
    """Which call a reward belongs to."""

    FIRST_OCCURRENCE = "first_occurrence"
    """The latest call before the reward that has none yet."""
    FIRST_SIBLING = "first_sibling"
    """The latest such call that has the same parent span as the reward."""


class TraceTree:
    """A span and what happened within it.

    Args:
        id: The span's id.
        span: The span.
        children: Trees of the spans within it.
    """

    def __init__(self, id: str, span: Span, children: list[TraceTree] | None = None) -> None:
        self.id = id
        self.span = span
        self.children = children if children is not None else []

    @staticmethod
    def from_spans(spans: Sequence[Span]) -> TraceTree:
        """The tree of one attempt's spans; several roots stand below a virtual one.

        Raises:
            ValueError: no spans.
        """
        if not spans:
            raise ValueError("a tree needs at least one span")
        nodes = {span.span_id: TraceTree(span.span_id, span) for span in sorted(spans, key=order)}
        roots: list[TraceTree] = []
        for node in nodes.values():
            parent = nodes.get(node.span.parent_id) if node.span.parent_id is not None else None
            (roots if parent is None else parent.children).append(node)
        roots += _cut_circles(nodes, roots)
        return roots[0] if len(roots) == 1 else TraceTree(AGL_VIRTUAL, _virtual(spans), roots)

    @property
    def start_time(self) -> float | None:
        """Seconds since the epoch."""
        return self.span.start_time

    @property
    def end_time(self) -> float | None:
        """Seconds since the epoch."""
        return self.span.end_time

    def add_child(self, child: TraceTree) -> None:
        """Put `child` below this span."""
        self.children.append(child)

    def traverse(self) -> list[TraceTree]:
        """This tree and all below it, parents before children."""
        return [node for node, _, _ in self.walk()]

    def walk(self) -> Iterator[tuple[TraceTree, str | None, bool]]:
        """As `traverse`; each with the nearest agent's name (its own first), and whether a reward is above it."""
        stack: list[tuple[TraceTree, str | None, bool]] = [(self, None, False)]
        while stack:
            node, agent, rewarded = stack.pop()
            agent = node.agent_name() or agent
            yield node, agent, rewarded
            inside = rewarded or node.is_reward_span()
            stack += [(child, agent, inside) for child in reversed(node.children)]

    def find_id(self, id: str) -> TraceTree | None:
        """The tree of the span with this id, or `None`."""
        return next((node for node in self.traverse() if node.id == id), None)

    def agent_name(self) -> str | None:
        """The name of the agent that this span stands for, or `None`."""
        return agent_name(self.span)

    def is_reward_span(self) -> bool:
        """Whether the span gives a reward."""
        return get_reward_value(self.span) is not None

    def maybe_reward_dict(self) -> dict[str, Any]:
        """`{"type": "reward", "value": ...}` of a reward span, else empty."""
        value = get_reward_value(self.span)
        return {} if value is None else {"type": "reward", "value": value}

    def names_tuple(self) -> tuple[str, list[Any]]:
        """Names only, for a look at the shape: (name [agent], children)."""
        return self.label(), [child.names_tuple() for child in self.children]

    def label(self) -> str:
        """The span's name, with its agent's in brackets."""
        agent = self.agent_name()
        return self.span.name if agent is None else f"{self.span.name} [{agent}]"

    def to_json(self) -> dict[str, Any]:
        """Plain data: `id`, `span`, `children`."""
        children = [child.to_json() for child in self.children]
        return {"id": self.id, "span": self.span.model_dump(mode="json"), "children": children}

    def repair_hierarchy(self) -> None:
        """Hang spans that stand directly below the root under the tightest span that encloses them in time.

        LLM calls take nobody in: calls of agents that run at once overlap without one being part of the other.
        """
        takers = [node for node in self.traverse() if node is not self and _takes(node.span)]
        floating, self.children = self.children, []
        for node in floating:
            below = {id(each) for each in node.traverse()}
            fitting = [taker for taker in takers if id(taker) not in below and _encloses(taker.span, node.span)]
            parent = min(fitting, key=lambda taker: _duration(taker.span), default=self)
            parent.children.append(node)
        for node in self.traverse():
            node.children.sort(key=lambda child: order(child.span))

    def find_llm_calls(
        self, *, llm_call_match: str, agent_match: str | None = None, within_reward: bool | None = None
    ) -> list[tuple[TraceTree, str]]:
        """LLM calls with the name of the nearest agent around them (`*`: none), in order of `sequence_id`.

        A call that was recorded twice counts once (see `reading.without_twins`).

        Args:
            llm_call_match: Regular expression that is searched for in span names.
            agent_match: Regular expression that is searched for in agent names; `None`: calls of all agents.
            within_reward: Only calls below a reward span (`True`), only others (`False`), or both (`None`).

        Raises:
            re.error: a pattern is no regular expression.
        """
        is_call, is_agent = re.compile(llm_call_match), re.compile(agent_match or "")
        found: dict[str, tuple[TraceTree, str]] = {}
        for node, agent, rewarded in self.walk():
            fits = agent_match is None or (agent is not None and is_agent.search(agent) is not None)
            if is_call.search(node.span.name) and fits and within_reward in (None, rewarded):
                found[node.id] = node, agent or NO_AGENT
        return [found[span.span_id] for span in without_twins([node.span for node, _ in found.values()])]

    def match_rewards(
        self, reward_match: RewardMatchPolicy | str, llm_calls: Sequence[TraceTree]
    ) -> dict[str, float | None]:
        """The reward of each call, by span id; each reward goes to one call at most, see `RewardMatchPolicy`.

        Raises:
            ValueError: `reward_match` is no policy.
        """
        siblings = RewardMatchPolicy(reward_match) is RewardMatchPolicy.FIRST_SIBLING
        parents = {child.id: node.id for node in self.traverse() for child in node.children}
        calls = {call.id for call in llm_calls}
        found: dict[str, float | None] = {call.id: None for call in llm_calls}
        waiting: list[TraceTree] = []
        for node in sorted(self.traverse(), key=lambda node: order(node.span)):
            value = get_reward_value(node.span)
            if node.id in calls:
                waiting.append(node)
            elif value is not None:
                own = {each.id for each in node.traverse()} if node.children else set[str]()
                fitting = [
                    call
                    for call in waiting
                    if call.id not in own and (not siblings or parents.get(call.id) == parents.get(node.id))
                ]
                if fitting:
                    waiting.remove(fitting[-1])
                    found[fitting[-1].id] = value
        return found

    def visualize(self, filename: str, interested_span_match: str | None = None) -> None:
        """Write the tree to `filename`.dot, and to `filename`.png where Graphviz's `dot` is installed.

        Args:
            filename: Path without ending.
            interested_span_match: Regular expression; only spans whose names match, and what is above them, are drawn.
        """
        wanted = re.compile(interested_span_match or "")
        nodes = self.traverse()
        drawn: set[str] = set()
        for node in reversed(nodes):  # children before parents
            if wanted.search(node.span.name) or any(child.id in drawn for child in node.children):
                drawn.add(node.id)
        lines = ["digraph trace {", "  node [shape=box];"]
        for node in nodes:
            if node.id in drawn:
                lines.append(f"  {_quoted(node.id)} [label={_quoted(node.label())}];")
                lines += [f"  {_quoted(node.id)} -> {_quoted(c.id)};" for c in node.children if c.id in drawn]
        source = Path(f"{filename}.dot")
        source.write_text("\n".join([*lines, "}", ""]))
        if (program := shutil.which("dot")) is not None:
            subprocess.run([program, "-Tpng", "-o", f"{filename}.png", str(source)], check=True)


def name_agents(spans: Sequence[Span]) -> dict[str, str]:
    """By span id: the agent of each span that has one around it.

    The gateway's span of a call does not know its agent. Where the agent's own instrumentation recorded the same call
    (by its response id), that span's agent counts; else the agent whose span encloses the call in time.
    """
    if not any(agent_name(span) is not None for span in spans):
        return {}
    tree = TraceTree.from_spans(spans)
    tree.repair_hierarchy()
    found: dict[str, str] = {}
    by_response: dict[str, str] = {}
    for node, agent, _ in tree.walk():
        if agent is None:
            continue
        found[node.id] = agent
        if node.span.token_call is None and (answer := answer_key(node.span)) is not None:
            by_response[answer] = agent
    for span in spans:
        if span.token_call is not None and (agent := by_response.get(answer_key(span) or "")) is not None:
            found[span.span_id] = agent
    return found


def _takes(span: Span) -> bool:
    return span.token_call is None and span.name != LLM_CALL_SPAN and answer_key(span) is None


def _encloses(outer: Span, inner: Span) -> bool:
    if None in (outer.start_time, outer.end_time, inner.start_time, inner.end_time):
        return False
    within = (outer.start_time or 0.0) <= (inner.start_time or 0.0) and (inner.end_time or 0.0) <= (
        outer.end_time or 0.0
    )
    return within and _duration(outer) > _duration(inner)


def _duration(span: Span) -> float:
    return (span.end_time or 0.0) - (span.start_time or 0.0)


def _cut_circles(nodes: dict[str, TraceTree], roots: list[TraceTree]) -> list[TraceTree]:
    """Foreign spans may name each other as parents: the first span of such a circle becomes a root."""
    cut: list[TraceTree] = []
    reached = {node.id for root in roots for node in root.traverse()}
    for node in nodes.values():
        if node.id not in reached:
            parent = nodes[node.span.parent_id or ""]
            parent.children.remove(node)
            cut.append(node)
            reached |= {each.id for each in node.traverse()}
    return cut


def _virtual(spans: Sequence[Span]) -> Span:
    starts = [span.start_time for span in spans if span.start_time is not None]
    ends = [span.end_time for span in spans if span.end_time is not None]
    first = spans[0]
    return Span.create(
        AGL_VIRTUAL,
        rollout_id=first.rollout_id,
        attempt_id=first.attempt_id,
        trace_id=first.trace_id,
        start_time=min(starts, default=None),
        end_time=max(ends, default=None),
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
