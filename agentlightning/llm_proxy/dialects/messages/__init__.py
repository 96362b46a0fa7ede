"""Anthropic's Messages API: what agents that use the `anthropic` client speak, and what Anthropic's endpoints speak.

`interface` serves agents; `chat_request`, `chat_turns`, `answers` and `events` are its parts. `messages_request`,
`messages_turns` and `chunks` are the way back, for `backends/anthropic.py`. Everything here is pure: dictionaries in,
dictionaries out. Source: Anthropic's API reference, version 2023-06-01.
"""

from .interface import MESSAGES, MessagesInterface

__all__ = ["MESSAGES", "MessagesInterface"]
