"""`Models`: whom proposers ask, and with which texts. `APO` makes it, `plan` gives it to the proposers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from agentlightning.types import ConfigError

from .meta_prompts import CRITICS, EDITORS, SEEN_BY_CRITIC, SEEN_BY_EDITOR, load

Files = Sequence[str | os.PathLike[str]]


class Models:
    """Critic and editor.

    Args:
        gradient_model: Name of the model that judges and reflects.
        apply_edit_model: Name of the model that rewrites.
        gradient_prompt_files: Users' own texts for the critic, Jinja or POML; of several, one is drawn for each call.
        apply_edit_prompt_files: The same for the editor.

    Raises:
        ConfigError: no name, or a file that can't be used.
    """

    def __init__(
        self,
        gradient_model: str = "gpt-5-mini",
        apply_edit_model: str = "gpt-4.1-mini",
        *,
        gradient_prompt_files: Files | None = None,
        apply_edit_prompt_files: Files | None = None,
    ) -> None:
        for field, name in (("gradient_model", gradient_model), ("apply_edit_model", apply_edit_model)):
            if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"`{field}` must be the name of a model, not {name!r}")
        self.critic = gradient_model
        self.editor = apply_edit_model
        self.critics, self.editors = CRITICS, EDITORS
        if gradient_prompt_files is not None:
            self.critics = load("gradient_prompt_files", gradient_prompt_files, SEEN_BY_CRITIC)
        if apply_edit_prompt_files is not None:
            self.editors = load("apply_edit_prompt_files", apply_edit_prompt_files, SEEN_BY_EDITOR)

    def describe(self) -> Mapping[str, Any]:
        """What replies depend on, for the record of a run."""
        return {
            "gradient_model": self.critic,
            "apply_edit_model": self.editor,
            "gradient_prompts": [prompt.name for prompt in self.critics],
            "apply_edit_prompts": [prompt.name for prompt in self.editors],
        }
