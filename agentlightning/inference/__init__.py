"""Tokens out: the native continuous-batching engine, OpenAI's interfaces on top of it, and models from and to disk.

`server.py` (HTTP) is imported by those who serve.
"""

from .attention import lm_head_weight, lm_logits, packed_hidden_states
from .engine import Engine
from .loading import LoadedModel, load_model, save_model
from .sampling import Generation, SamplingParams
from .service import ChatService
from .streams import Piece
from .tools import ParsedCall, parse_tool_calls

__all__ = [
    "ChatService",
    "Engine",
    "Generation",
    "LoadedModel",
    "ParsedCall",
    "Piece",
    "SamplingParams",
    "lm_head_weight",
    "lm_logits",
    "load_model",
    "packed_hidden_states",
    "parse_tool_calls",
    "save_model",
]
