"""Starts the endpoint of the test bed: prints its address, serves until it is killed.

python benchmarks/apo/serve.py [--port 8100] [--latency-ms 50]
"""

from __future__ import annotations

import argparse
import asyncio
import socket

import uvicorn
from bed.server import Endpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="how long each answer takes")
    args = parser.parse_args()
    with socket.create_server((args.host, args.port), backlog=512) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a reply waits 40 ms between head and body
        print(f"http://{args.host}:{listener.getsockname()[1]}", flush=True)
        app = Endpoint(args.latency_ms / 1000).app()
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=600)
        asyncio.run(uvicorn.Server(config).serve([listener]))


if __name__ == "__main__":
    main()
