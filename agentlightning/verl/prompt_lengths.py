"""Prompts that are too long: refused, left out or cut, by the model's own tokenizer. Called by `main_ppo`.

No torch: the tokenizer is handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from agentlightning.inference.chat import messages_for_template
from agentlightning.types import DatasetError

from .prompts import Json

logger = logging.getLogger(__name__)


def fit_prompts(
    file: str,
    tasks: Sequence[Json],
    tokenizer: Any,
    *,
    longest: int,
    filter_overlong: bool = False,
    truncation: str = "error",
) -> list[Json]:
    """The tasks whose prompts have at most `longest` tokens, by the tokenizer's chat template.

    Args:
        file: Where they come from, for the messages.
        tasks: Of `prompt_rows`.
        tokenizer: Of the model, with a chat template.
        longest: `data.max_prompt_length`, in tokens.
        filter_overlong: Leave out those that are longer (`data.filter_overlong_prompts`).
        truncation: What becomes of them otherwise: `error` refuses the dataset; `left`, `right` and `middle` cut that
            end of the longest message's text, so that roles and the form of the chat stay whole (verl cuts the
            templated tokens).

    Raises:
        DatasetError: a prompt is too long, even when cut, or the template refuses it.
    """

    def length(number: int, prompt: list[Json]) -> int:
        try:
            return len(_render(tokenizer, prompt))
        except Exception as error:
            raise DatasetError(
                f"dataset `{file}`, row {number}: the model's chat template refuses the prompt: {error}"
            ) from error

    kept: list[Json] = []
    for number, task in enumerate(tasks, 1):
        tokens = length(number, task["prompt"])
        if tokens <= longest:
            kept.append(task)
        elif filter_overlong:
            continue
        elif truncation == "error":
            raise DatasetError(
                f"dataset `{file}`, row {number}: the prompt has {tokens} tokens, and `data.max_prompt_length` is "
                f"{longest}; raise it, or set `data.filter_overlong_prompts=True` to leave such rows out, or "
                "`data.truncation` to left, right or middle to cut them"
            )
        else:
            cut = _cut(tokenizer, task["prompt"], longest, truncation, lambda prompt, n=number: length(n, prompt))
            if cut is None:
                raise DatasetError(
                    f"dataset `{file}`, row {number}: the prompt has {tokens} tokens and can't be cut to "
                    f"`data.max_prompt_length` {longest}; raise it, or set `data.filter_overlong_prompts=True`"
                )
            kept.append({**task, "prompt": cut})
    if len(kept) < len(tasks):
        logger.warning(
            "dataset `%s`: %d of %d prompts are longer than %d tokens and left out",
            file,
            len(tasks) - len(kept),
            len(tasks),
            longest,
        )
    if not kept:
        raise DatasetError(
            f"dataset `{file}`: no prompt has at most `data.max_prompt_length` {longest} tokens; raise it"
        )
    return kept


def _render(tokenizer: Any, prompt: list[Json]) -> list[int]:
    return tokenizer.apply_chat_template(
        messages_for_template(prompt), tokenize=True, add_generation_prompt=True, return_dict=False
    )


def _cut(
    tokenizer: Any, prompt: list[Json], longest: int, side: str, length: Callable[[list[Json]], int]
) -> list[Json] | None:
    """The prompt with its longest text cut until it fits; `None` where it does not fit even without that text."""
    at = max(range(len(prompt)), key=lambda i: len(prompt[i]["content"]) if _is_text(prompt[i]) else -1)
    if not _is_text(prompt[at]):
        return None
    ids: list[int] = tokenizer.encode(prompt[at]["content"], add_special_tokens=False)
    keep = len(ids) - (length(prompt) - longest)
    while keep > 0:
        text = str(tokenizer.decode(_part(ids, keep, side), skip_special_tokens=False))
        cut = [*prompt[:at], {**prompt[at], "content": text}, *prompt[at + 1 :]]
        excess = length(cut) - longest
        if excess <= 0 and text.strip():
            return cut
        keep -= max(excess, 1)  # the cut text may be tokenised in more pieces than it was made of
    return None


def _is_text(message: Json) -> bool:
    return isinstance(message.get("content"), str)


def _part(ids: list[int], keep: int, side: str) -> list[int]:
    """`keep` tokens: the last ones for `left`, the first ones for `right`, both ends for `middle`."""
    if side == "left":
        return ids[len(ids) - keep :]
    if side == "right":
        return ids[:keep]
    head = (keep + 1) // 2
    return ids[:head] + ids[len(ids) - (keep - head) :]
