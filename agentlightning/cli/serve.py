"""`agl serve`: an OpenAI-compatible server on the native engine."""

from __future__ import annotations

from typing import Annotated

import typer

from .native import native_service


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A local directory (a checkpoint, too) or a hub name.")],
    *,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; any but loopback needs a key.")
    ] = "127.0.0.1",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What clients call the model. Default: MODEL as it is given.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", envvar="AGL_API_KEY", help="What clients must send as their API key.")
    ] = None,
    max_context: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", help="Longest prompt and answer together. Default: the model's own limit."),
    ] = None,
    slots: Annotated[int, typer.Option(metavar="N", min=1, help="Sequences to decode at once; more wait.")] = 64,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda`, or `auto`: a GPU if there is one.")] = "auto",
) -> None:
    """Serve a model under OpenAI's chat completions interface.

    ```
    agl serve models/mine --name mine --port 8000
    curl http://127.0.0.1:8000/v1/chat/completions \\
        -H 'content-type: application/json' \\
        -d '{"model": "mine", "messages": [{"role": "user", "content": "6 * 7 ="}]}'
    ```

    The agent that was trained needs no change: give its client `base_url="http://127.0.0.1:8000/v1"`.
    """
    from agentlightning.inference.server import run

    with native_service(model, name=name, max_context=max_context, slots=slots, device=device) as service:
        run(service, host, port, api_key=api_key)
