"""DAPO's penalty for answers that come near the limit (arXiv:2503.14476, section 3.4).

Called by the training loop for every rollout, whatever agent made it: only the loop knows the exact number of tokens.
"""

from __future__ import annotations


def overlong_penalty(length: int, max_resp_len: int, buffer_len: int, factor: float = 1.0) -> float:
    """What is added to the reward of an answer: 0 or less.

    0 up to `max_resp_len - buffer_len` tokens, from there down in a straight line to `-factor` at `max_resp_len`, and
    on beyond it.

    Args:
        length: Tokens of the answer.
        max_resp_len: The longest answer.
        buffer_len: Tokens before it in which the penalty grows.
        factor: The penalty at `max_resp_len`.

    Raises:
        ValueError: `buffer_len` is not between 1 and `max_resp_len`.
    """
    if not 1 <= buffer_len <= max_resp_len:
        raise ValueError(f"`buffer_len` {buffer_len} must be from 1 to `max_resp_len` {max_resp_len}")
    exceed = length - (max_resp_len - buffer_len)
    return -exceed / buffer_len * factor if exceed > 0 else 0.0
