"""The new prompt is found in what editors write, with tags, without, or half of them."""

from __future__ import annotations

import pytest

from agentlightning.algorithm.apo.replies import between_fences, between_tags


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<new_prompt>\nDo {x}.\n</new_prompt>", "Do {x}."),
        ("I think <new_prompt> is meant.\n<new_prompt>Do {x}.</new_prompt> Done!", "Do {x}."),
        ("<new_prompt>first</new_prompt> No, better: <new_prompt>second</new_prompt>", "second"),
        ("<new_prompt>\n```\nDo {x}.\n```\n</new_prompt>", "Do {x}."),
        ("<new_prompt>\nLike\n```\n1\n```\nor\n```\n2\n```\n</new_prompt>", "Like\n```\n1\n```\nor\n```\n2\n```"),
        ("<new_prompt>Do {x}.", "Do {x}."),
        ("Do {x}.</new_prompt>", "Do {x}."),
        ("  Do {x}.\n", "Do {x}."),
        ("```text\nDo {x}.\n```", "Do {x}."),
        ("Do {x}, as in\n```\n1\n```", "Do {x}, as in\n```\n1\n```"),
        ("<new_prompt></new_prompt>", ""),
    ],
)
def test_text_between_tags(reply: str, text: str) -> None:
    assert between_tags(reply) == text


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("Here:\n```\nDo {x}.\n```\nDone.", "Do {x}."),
        ("```markdown\nDo {x}.\n```", "Do {x}."),
        ("```\nDo {x}:\n```json\n1\n```\nwell\n```", "Do {x}:\n```json\n1\n```\nwell"),
        ("```\nDo {x}.", "Do {x}."),
        ("Do {x}.\n```", "Do {x}."),
        ("Do {x}.", "Do {x}."),
        ("<new_prompt>Do {x}.</new_prompt>", "Do {x}."),
        ("``````", ""),
    ],
)
def test_text_between_fences(reply: str, text: str) -> None:
    assert between_fences(reply) == text
