"""The two ends of the test of many clients, each a process of its own: `upstream`, and `clients` that all call at once.

`python crowd.py upstream` prints its port, answers nobody before `POST /release`, and tells at `GET /stats` what came.
`python crowd.py clients URL COUNT FIRST PATH...` makes `COUNT` calls, each on a connection of its own, numbered from
`FIRST`, and prints how they went as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

TEXT = "a prompt of some length. " * 160  # 4 kB


def raise_limit() -> int:
    """Allow as many open files as there may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def request(number: int) -> dict[str, Any]:
    return {"model": "main", "messages": [{"role": "user", "content": f"{number} {TEXT}"}]}


def answer(number: str) -> str:
    return f"the answer to {number}"


# -- the endpoint -------------------------------------------------------------------------------------------------


async def upstream() -> None:
    from aiohttp import web

    release, asked, running, most = asyncio.Event(), 0, 0, 0

    async def chat(request: web.Request) -> web.Response:
        nonlocal asked, running, most
        body = await request.json()
        asked, running = asked + 1, running + 1
        most = max(most, running)
        await release.wait()
        running -= 1
        message = {"role": "assistant", "content": answer(body["messages"][0]["content"].split()[0])}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "token_ids": [7, 8]}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return web.json_response({"id": "c", "choices": [choice], "prompt_token_ids": [1, 2, 3], "usage": usage})

    async def stats(_: web.Request) -> web.Response:
        assert runner.server is not None
        connections = len(runner.server.connections) - 1  # not the one that asks
        return web.json_response({"asked": asked, "running": running, "most": most, "connections": connections})

    async def let_go(_: web.Request) -> web.Response:
        release.set()
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/stats", stats), web.post("/release", let_go)])
    runner = web.AppRunner(app)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
    await web.SockSite(runner, sock, backlog=4096).start()
    print(sock.getsockname()[1], flush=True)
    await asyncio.Event().wait()


# -- the clients --------------------------------------------------------------------------------------------------


async def clients(url: str, count: int, first: int, paths: list[str]) -> None:
    host, port = urlsplit(url).hostname, urlsplit(url).port
    outcomes: Counter[str] = Counter()
    connecting = asyncio.Semaphore(200)

    async def one(number: int) -> None:
        async with connecting:
            reader, writer = await asyncio.open_connection(host, port)
            body = json.dumps(request(number)).encode()
            path = paths[number % len(paths)]
            head = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", "", ""]
            writer.write("\r\n".join(head).encode() + body)
            await writer.drain()
        got = await reader.readuntil(b"\r\n\r\n")
        length = int(next(line for line in got.lower().split(b"\r\n") if line.startswith(b"content-length"))[15:])
        told = json.loads(await reader.readexactly(length))
        status = got.split()[1].decode()
        right = status == "200" and told["choices"][0]["message"]["content"] == answer(str(number))
        outcomes["right" if right else f"{status}: {json.dumps(told)[:200]}"] += 1
        writer.close()

    results = await asyncio.gather(*(one(first + at) for at in range(count)), return_exceptions=True)
    outcomes.update(repr(result) for result in results if result is not None)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    raise_limit()
    if sys.argv[1] == "upstream":
        asyncio.run(upstream())
    else:
        asyncio.run(clients(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]))
