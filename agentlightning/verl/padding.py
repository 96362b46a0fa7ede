"""Token ids of a fixed length with their attention mask: prompts padded on the left, responses on the right.

Called by `AgentModeDaemon.get_train_data_batch`, which gives padded tensors to whoever wants them. The training loop
itself packs rows and pads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence


def get_left_padded_ids_and_attention_mask(
    ids: Sequence[int], max_length: int, pad_token_id: int
) -> tuple[list[int], list[int]]:
    """Pad on the left to `max_length`; of a longer sequence the last `max_length` ids are kept.

    Args:
        ids: Token ids.
        max_length: Length of the result in tokens.
        pad_token_id: Id to pad with.

    Returns:
        (ids, attention mask), both of length `max_length`; the mask is 1 on `ids` and 0 on padding.

    Raises:
        ValueError: `max_length` is negative.
    """
    padding = _padding(ids, max_length)
    kept = list(ids[max(len(ids) - max_length, 0) :])
    return [pad_token_id] * padding + kept, [0] * padding + [1] * len(kept)


def get_right_padded_ids_and_attention_mask(
    ids: Sequence[int], max_length: int, pad_token_id: int
) -> tuple[list[int], list[int]]:
    """Pad on the right to `max_length`; of a longer sequence the first `max_length` ids are kept.

    Args:
        ids: Token ids.
        max_length: Length of the result in tokens.
        pad_token_id: Id to pad with.

    Returns:
        (ids, attention mask), both of length `max_length`; the mask is 1 on `ids` and 0 on padding.

    Raises:
        ValueError: `max_length` is negative.
    """
    padding = _padding(ids, max_length)
    kept = list(ids[:max_length])
    return kept + [pad_token_id] * padding, [1] * len(kept) + [0] * padding


def _padding(ids: Sequence[int], max_length: int) -> int:
    """How many pads `ids` need."""
    if max_length < 0:
        raise ValueError(f"`max_length` is {max_length}; give a number of tokens, 0 or more")
    return max(max_length - len(ids), 0)
