"""The endpoint: OpenAI's chat completions, with this world's models behind it.

    python benchmarks/apo/bed_server.py [--port 0] [--latency-ms 50]

The base URL of a run is `http://host:port/<family>/<seed>/<run>/v1`. Family and seed say which world and which noise;
runs with different names count their samples apart. Models: `sim-task`, `sim-judge`, `sim-critic`, `sim-editor`,
`sim-reflect` (critic and editor in one). The same request gets the same answer, whatever ids and times it holds, save
that a request at a temperature other than 0 is another sample each time it comes; a `seed` in the request chooses the
sample instead. `GET /<family>/<seed>/<run>/stats` tells how many calls came, by model, and their CPU time.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from . import models
from .answers import answer
from .catalog import world
from .families import SHARED, Task, World, split_prompt
from .reading import CASE, read, text_of

OPTIMISERS = {"sim-critic": models.critique, "sim-editor": models.edit, "sim-reflect": models.reflect}
COMPONENT_OF = {"Make the plan.": "planner", "Write the answer.": "writer"}
"""What the agent's last message says in families of two roles."""


@dataclass
class Run:
    """What is remembered of one run."""

    calls: Counter[str] = field(default_factory=Counter[str])
    samples: defaultdict[bytes, int] = field(default_factory=lambda: defaultdict[bytes, int](int))
    cpu_s: float = 0.0


class Endpoint:
    """The models, and the runs that called them."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self.runs: defaultdict[tuple[str, str, str], Run] = defaultdict(Run)

    def app(self) -> Starlette:
        base = "/{family}/{seed:int}/{run}"
        return Starlette(
            routes=[
                Route(f"{base}/v1/chat/completions", self.complete, methods=["POST"]),
                Route(f"{base}/stats", self.stats),
            ]
        )

    async def complete(self, request: HttpRequest) -> Response:
        """One call."""
        path = request.path_params
        try:
            body, here = orjson.loads(await request.body()), world(path["family"])
            model, messages = str(body["model"]), body["messages"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            return _json({"error": {"message": f"no such family, or no such request: {error!r}"}}, 400)
        began = time.thread_time()
        run = self.runs[path["family"], path["seed"], path["run"]]
        run.calls[model] += 1
        text = reply(here, path["seed"], run, model, messages, body)
        run.cpu_s += time.thread_time() - began
        if text is None:
            return _json({"error": {"message": f"The model `{model}` does not exist", "code": "model_not_found"}}, 404)
        if self.latency:
            await asyncio.sleep(self.latency)
        return _json(_completion(model, messages, text, run.calls.total()))

    async def stats(self, request: HttpRequest) -> Response:
        """Calls of a run so far."""
        path = request.path_params
        run = self.runs[path["family"], path["seed"], path["run"]]
        return _json({"calls": dict(run.calls), "cpu_s": run.cpu_s})


def reply(here: World, seed: int, run: Run, model: str, messages: list[Any], body: dict[str, Any]) -> str | None:
    """What a model says; `None` where there is no such model."""
    if model == "sim-task":
        return _task_reply(here, seed, run, messages, body)
    if model == "sim-judge":
        return models.judge(here, seed, text_of(messages))
    if model not in OPTIMISERS:
        return None
    request = read(here, messages)
    sample = _sample(run, f"{model} {request.key}", body)
    return OPTIMISERS[model](here, request, random.Random(f"{here.family.name} {seed} {model} {request.key} {sample}"))


def _task_reply(here: World, seed: int, run: Run, messages: list[Any], body: dict[str, Any]) -> str:
    prompt, ask = str(messages[0]["content"]), str(messages[-1]["content"])
    _, fields = split_prompt(prompt)
    found = CASE.search(fields["case"])
    task: Task | None = here.task(seed, int(found.group(1))) if found else None
    component = COMPONENT_OF.get(ask, here.family.components[0])
    role = SHARED if component != "prompt" and here.role(SHARED) in prompt else component
    return answer(here, task, prompt, component, role, seed, _sample(run, prompt + ask, body))


def _sample(run: Run, key: str, body: dict[str, Any]) -> int:
    """The how manieth answer this is to the same question."""
    if body.get("seed") is not None:
        return int(body["seed"])
    if body.get("temperature", 1.0) == 0:
        return 0
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    run.samples[digest] += 1
    return run.samples[digest]


def _completion(model: str, messages: list[Any], text: str, number: int) -> dict[str, Any]:
    asked = sum(len(str(message.get("content") or "")) for message in messages) // 4
    said = len(text) // 4
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
