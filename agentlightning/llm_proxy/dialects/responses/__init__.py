"""OpenAI's Responses API: written as chat completions for the backends that do not speak it."""

from .interface import RESPONSES

__all__ = ["RESPONSES"]
