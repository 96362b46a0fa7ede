"""`openai`: structured output, read into a pydantic model."""

from __future__ import annotations

from typing import Any

from openai import OpenAI
from pydantic import BaseModel, ValidationError

import agentlightning as agl

from .weather import question, reward


class Forecast(BaseModel):
    weather: str


@agl.rollout
def agent(task: Any, llm: agl.LLM) -> float:
    client = OpenAI(base_url=llm.get_base_url(), api_key=llm.api_key)
    messages: list[Any] = [{"role": "user", "content": f"{question(task)} Answer in JSON."}]
    try:
        completion = client.chat.completions.parse(model=llm.model, messages=messages, response_format=Forecast)
    except ValidationError:
        return 0.0  # the native engine does not hold answers to the schema
    forecast = completion.choices[0].message.parsed
    return 0.0 if forecast is None else reward(task, forecast.weather)
