"""Serves a SQLite file on a port until killed: `python serving_process.py FILE PORT`."""

from __future__ import annotations

import asyncio
import sys

from agentlightning.store import SqlLightningStore
from agentlightning.store.client_server import LightningStoreServer


async def main(path: str, port: int) -> None:
    server = LightningStoreServer(SqlLightningStore(path), port=port)
    await server.start()
    print("ready", flush=True)
    await server.run_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
