"""A model on the native engine for as long as a command needs it, or its tokenizer alone.

Called by `serve`, `dev` and `inspect`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentlightning.types import ConfigError

if TYPE_CHECKING:
    from agentlightning.inference.service import ChatService


@contextmanager
def native_service(
    model: str,
    *,
    name: str | None = None,
    max_context: int | None = None,
    slots: int = 64,
    device: str = "auto",
) -> Generator[ChatService]:
    """Load a model, start the engine, and stop it at the end.

    Args:
        model: Local directory or hub name.
        name: What clients call it; `None`: `model` as it is given.
        max_context: Longest prompt and answer together, in tokens; `None`: the model's own limit.
        slots: Sequences decoded at once.
        device: `cpu`, `cuda`, or `auto`: a GPU if there is one.

    Raises:
        ConfigError: torch, or what else it needs, is not installed, or there is no such device.
        ModelError: the model can't be loaded.
    """
    try:
        import torch

        from agentlightning.inference.engine import Engine
        from agentlightning.inference.loading import load_model
        from agentlightning.inference.service import ChatService
    except ModuleNotFoundError as error:
        raise ConfigError(f"the native engine needs `{error.name}`: pip install 'agentlightning[verl]'") from error

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not (device.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise ConfigError(f"`--device {device}` can't be used here; `agl doctor` shows the devices")
    loaded = load_model(model, device=device)
    engine = Engine(loaded.model, loaded.tokenizer, max_slots=slots, max_context=max_context)
    engine.start()
    try:
        yield ChatService(engine, loaded.tokenizer, name or model)
    finally:
        engine.stop()


def load_decoder(model: str) -> Callable[[Sequence[int]], str]:
    """What turns token ids into text, special tokens included.

    Args:
        model: Local directory or hub name.

    Raises:
        ConfigError: transformers is not installed.
        ModelError: there is no tokenizer.
    """
    try:
        from agentlightning.inference.loading import load_tokenizer
    except ModuleNotFoundError as error:
        raise ConfigError(f"a tokenizer needs `{error.name}`: pip install 'agentlightning[verl]'") from error
    tokenizer = load_tokenizer(model)
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))
