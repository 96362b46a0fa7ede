"""`langgraph` with `ChatOpenAI`, streamed: the graph of `langgraph_agent.py`, run with `astream`."""

from __future__ import annotations

from typing import Any

import agentlightning as agl

from .langgraph_agent import build_graph
from .weather import question, reward


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    graph, shown = build_graph(llm, streaming=True), ""
    asked = {"messages": [("user", question(task))]}
    async for chunk, about in graph.astream(asked, {"recursion_limit": 8}, stream_mode="messages"):
        if about["langgraph_node"] == "model":
            shown += chunk.content
    return reward(task, shown)
