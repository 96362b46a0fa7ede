"""The gateway between agents and models: OpenAI's interface in front, any backend behind, every call recorded.

`LLMProxy` and `HttpBackend` are imported on first use: they bring a web server and an HTTP client.
"""

from typing import TYPE_CHECKING, Any

from .attempts import call_seed
from .backend import Backend

if TYPE_CHECKING:
    from .backends.openai import HttpBackend
    from .backends.upstream import UpstreamError
    from .entries import ModelConfig
    from .proxy import LLMProxy

__all__ = ["Backend", "HttpBackend", "LLMProxy", "ModelConfig", "UpstreamError", "call_seed"]


def __getattr__(name: str) -> Any:
    if name == "LLMProxy":
        from .proxy import LLMProxy

        return LLMProxy
    if name == "ModelConfig":
        from .entries import ModelConfig

        return ModelConfig
    if name in ("HttpBackend", "UpstreamError"):
        from .backends import openai

        return getattr(openai, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
