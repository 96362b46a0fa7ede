"""The plainest proxy that one would write: Starlette in front, one httpx client behind, bytes passed on as they are.

Started by `compare`, in an environment that has httpx. It captures nothing and looks at nothing but `stream`.
"""

from __future__ import annotations

import argparse
import json

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)


def create_app(backend: str) -> Starlette:
    client = httpx.AsyncClient(timeout=600.0, limits=LIMITS)

    async def chat(request: Request) -> Response:
        body = await request.body()
        headers = {"content-type": "application/json"}
        sent = client.build_request("POST", f"{backend}/chat/completions", content=body, headers=headers)
        if not json.loads(body).get("stream"):
            answer = await client.send(sent)
            return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
        answer = await client.send(sent, stream=True)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, media_type=answer.headers.get("content-type"))

    async def health(_: Request) -> Response:
        return Response("ok")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/health", health)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", required=True)
    args = parser.parse_args()
    uvicorn.run(create_app(args.backend), host="127.0.0.1", port=args.port, access_log=False, log_level="warning")
