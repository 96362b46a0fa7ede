"""A store server in a process of its own, for the drivers that measure operations over HTTP; ends with its stdin.

Prints its endpoint as one line. `with serving(home) as url:` starts it from a driver, in the same environment.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(home: str) -> Iterator[str]:
    """The endpoint of a new server process that holds a new `home`."""
    command = [sys.executable, str(Path(__file__)), "--home", home]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith("endpoint "):
                yield line.split()[1]
                break
        else:
            raise SystemExit("the server ended before it was ready; its messages stand above")
        server.stdin.close()
        server.kill()


async def serve(home: str) -> None:
    from common import free_port, open_store

    import agentlightning as agl

    port = free_port()
    server = agl.LightningStoreServer(open_store(home), host="127.0.0.1", port=port)
    await server.start()
    print(f"endpoint http://127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    from common import arguments

    asyncio.run(serve(arguments(home="memory").home))


if __name__ == "__main__":
    main()
