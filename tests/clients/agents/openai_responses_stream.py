"""`openai`: the Responses interface, streamed, with structured output."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel, ValidationError

import agentlightning as agl

from .weather import question, reward


class Forecast(BaseModel):
    weather: str


@agl.rollout
async def agent(task: Any, llm: agl.LLM) -> float:
    client = AsyncOpenAI(base_url=llm.get_base_url(), api_key=llm.api_key)
    asked, shown = f"{question(task)} Answer in JSON.", ""
    try:
        async with client.responses.stream(model=llm.model, input=asked, text_format=Forecast) as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    shown += event.delta
            response = await stream.get_final_response()
    except ValidationError:
        return 0.0  # the native engine does not hold answers to the schema
    assert response.output_text == shown
    return 0.0 if response.output_parsed is None else reward(task, response.output_parsed.weather)
