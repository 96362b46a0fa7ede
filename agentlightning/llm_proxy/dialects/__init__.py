"""The interfaces that the gateway serves."""

from ..backend import Dialect
from .base import Interface, Translated, Translator, well_formed
from .messages import MESSAGES
from .openai import CHAT, COMPLETIONS, EMBEDDINGS
from .responses import RESPONSES

INTERFACES: tuple[Interface, ...] = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS)
TRANSLATED: dict[Dialect, Translated] = {RESPONSES.name: RESPONSES, MESSAGES.name: MESSAGES}
"""Those that a backend need not speak. To be asked for by name: `isinstance` of a protocol takes 0.1 ms."""

__all__ = ["CHAT", "INTERFACES", "TRANSLATED", "Interface", "Translated", "Translator", "well_formed"]
