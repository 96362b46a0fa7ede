"""A local endpoint with a critic that always asks for kindness, and an editor that adds it."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def reply(text: str) -> str:
    """What critic and editor say to a request."""
    prompt = re.search(r"<prompt>\n(.*?)\n</prompt>", text, re.DOTALL)
    assert prompt
    if "<new_prompt>" not in text:
        return "- Ask for more kindness." if "be kind" in text else "- Nothing to add."
    return f"<new_prompt>Be kind. {prompt[1]}</new_prompt>"


@contextmanager
def endpoint() -> Iterator[tuple[str, Counter[str]]]:
    """Serve it; gives the base URL, and how often each model was asked."""
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked[body["model"]] += 1
            message = {"role": "assistant", "content": reply(body["messages"][-1]["content"])}
            data = json.dumps(
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
