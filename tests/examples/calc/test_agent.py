"""The agent against a real HTTP endpoint that says what it is told to, and against the native engine."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.inference.engine import Engine
from agentlightning.inference.loading import load_model
from agentlightning.inference.server import create_app
from agentlightning.inference.service import ChatService
from agentlightning.utils.server_thread import ThreadedServer
from examples.calc.agent import MAX_CALLS, answer_in, calc_agent, main, solve, use_tool
from examples.calc.calculator import TOOL
from examples.calc.model import build

TASK = {"question": "Tom has 12 eggs and finds 5 more. How many?", "answer": 17}


class Endpoint(ThreadingHTTPServer):
    """Answers the n-th request with the n-th message, the last one again and again, and keeps the requests."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.messages = messages
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def llm(self, **fields: Any) -> agl.LLM:
        return agl.LLM(endpoint=f"http://127.0.0.1:{self.server_port}/some/path/v1", model="m", **fields)


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = self.server.messages[min(len(self.server.requests), len(self.server.messages) - 1)]
        self.server.requests.append(body)
        self.server.paths.append(self.path)
        self.server.keys.append(self.headers["authorization"])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None, **message}}
        reply = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply.encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Endpoint]]:
    running: list[Endpoint] = []

    def start(*messages: dict[str, Any]) -> Endpoint:
        running.append(Endpoint(*messages))
        return running[-1]

    yield start
    for endpoint in running:
        endpoint.shutdown()
        endpoint.server_close()


def call(arguments: str, name: str = "calculator", call_id: str = "call_1") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def test_calls_the_calculator_and_answers(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(call('{"expression": "12 + 5"}'), {"content": "### 17 ###"})
    assert calc_agent(TASK, llm=endpoint.llm(api_key="secret", sampling_parameters={"temperature": 0.5})) == 1.0
    first, second = endpoint.requests
    assert endpoint.paths == ["/some/path/v1/chat/completions"] * 2
    assert endpoint.keys == ["Bearer secret"] * 2
    assert first["tools"] == [TOOL]
    assert first["temperature"] == 0.5
    assert first["messages"] == [{"role": "user", "content": TASK["question"]}]
    asked, called, result = second["messages"]
    assert asked == first["messages"][0]
    assert called["tool_calls"][0]["function"] == {"name": "calculator", "arguments": '{"expression": "12 + 5"}'}
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "17"}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("### 17 ###", 1.0),
        ("it is ###17.0###", 1.0),
        ("### 3 ### no, ### 17 ###", 1.0),
        ("### 17 ### no, ### 3 ###", 0.0),
        ("### -17 ###", 0.0),
        ("17", 0.0),
        ("### seventeen ###", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_reward(serve: Callable[..., Endpoint], text: str | None, reward: float) -> None:
    assert calc_agent(TASK, llm=serve({"content": text}).llm()) == reward


def test_gives_up_after_some_calls(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(call('{"expression": "1"}'))
    assert calc_agent(TASK, llm=endpoint.llm()) == 0.0
    assert len(endpoint.requests) == MAX_CALLS


def test_every_call_of_a_message_gets_its_result(serve: Callable[..., Endpoint]) -> None:
    both = [*call('{"expression": "1 + 1"}', call_id="a")["tool_calls"], *call("{}", "clock", "b")["tool_calls"]]
    endpoint = serve({"tool_calls": both}, {"content": "done"})
    assert solve("?", endpoint.llm()) == "done"
    results = endpoint.requests[1]["messages"][2:]
    assert [result["tool_call_id"] for result in results] == ["a", "b"]
    assert [result["content"] for result in results] == ["2", "error: there is no tool `clock`, only `calculator`"]


@pytest.mark.parametrize(
    "arguments",
    ["", "12 + 5", "[]", "null", '"text"', "{}", '{"expr": 1}', '{"expression": null}', '{"expression": '],
)
def test_nonsense_from_the_model_is_answered_with_an_error(arguments: str) -> None:
    assert use_tool("calculator", arguments).startswith("error: ")


def test_expressions_that_are_numbers() -> None:
    assert use_tool("calculator", '{"expression": 17}') == "17"


def test_answer_in() -> None:
    assert answer_in("### 4.5 ###") == 4.5
    assert answer_in("### ###") is None


def test_command_line(
    serve: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = serve(call('{"expression": "2 * 3"}'), {"content": "### 6 ###"})
    monkeypatch.setattr("sys.argv", ["agent", "how many?", "--base-url", endpoint.llm().endpoint, "--model", "m"])
    main()
    assert capsys.readouterr().out == "### 6 ###\n"


@pytest.fixture
async def untrained(tmp_path: Path) -> AsyncIterator[agl.LLM]:
    loaded = load_model(str(build(tmp_path / "model", hidden_size=32, num_layers=2)))
    engine = Engine(loaded.model, loaded.tokenizer)
    engine.start()

    service = ChatService(engine, loaded.tokenizer, "tiny")
    server = ThreadedServer("127.0.0.1", None, lambda: create_app(service), name="engine-server")
    await server.start()
    endpoint = f"http://127.0.0.1:{server.port}/v1"
    yield agl.LLM(endpoint=endpoint, model="tiny", sampling_parameters={"max_tokens": 20, "seed": 1})
    await server.stop()
    engine.stop()


async def test_a_model_that_knows_nothing_earns_nothing(untrained: agl.LLM) -> None:
    assert calc_agent(TASK, llm=untrained) == 0.0
