"""`langgraph` with `ChatOpenAI`: a graph of a model and its tool, run with `ainvoke`."""

from __future__ import annotations

from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

import agentlightning as agl

from .weather import get_weather, question, reward


def build_graph(llm: agl.LLM, **options: Any) -> Any:
    model = ChatOpenAI(base_url=llm.get_base_url(), api_key=llm.api_key, model=llm.model, **options)
    model_with_tool = model.bind_tools([get_weather])

    async def call_model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model_with_tool.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", call_model)
    graph.add_node("tools", ToolNode([get_weather]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile()


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    graph = build_graph(llm)
    state = await graph.ainvoke({"messages": [("user", question(task))]}, {"recursion_limit": 8})
    return reward(task, state["messages"][-1].content)
