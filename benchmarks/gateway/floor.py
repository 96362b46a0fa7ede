"""What a proxy in Python can't go below: reads a request as JSON, sends it on, reads the answer, sends that back.

Started by `compare`, in our environment: a bare ASGI application on uvicorn with aiohttp behind, which our gateway has
too. Not something that one would use; it tells how fast the machine is at the moment.
"""

from __future__ import annotations

import argparse
from typing import Any

import aiohttp
import orjson
import uvicorn

_HEADERS = [(b"content-type", b"application/json")]


def create_app(backend: str) -> Any:
    session: list[aiohttp.ClientSession] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/health":
            return await answer(send, b"{}")
        if not session:
            session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1000)))
        parts, more = list[bytes](), True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = orjson.dumps(orjson.loads(b"".join(parts)))
        headers = {"content-type": "application/json"}
        async with session[0].post(f"{backend}/chat/completions", data=body, headers=headers) as response:
            data = await response.read()
        return await answer(send, orjson.dumps(orjson.loads(data)))

    return app


async def answer(send: Any, data: bytes) -> None:
    headers = [*_HEADERS, (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", required=True)
    args = parser.parse_args()
    uvicorn.run(create_app(args.backend), host="127.0.0.1", port=args.port, access_log=False, log_level="warning")
