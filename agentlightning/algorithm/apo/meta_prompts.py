"""What critic and editor are told: our own texts, and users' files in their place. Rendered by the proposers.

Each is one Jinja template that becomes one user message, which every chat endpoint takes. Values:

- `prompt_template`: the text to work on, its placeholders unfilled; `component`: its name, `others`: those of prompts
  beside it; `rules`: what a new text must keep.
- `runs`: what happened, ready to read; `experiments`: the same as a list, each with `status`, `final_reward`, `input`,
  `error`, `feedback` (texts), `messages` (of the calls) and `transcript` (the messages as text).
- `critique`, for editors. `history` (mappings `text`, `score`) and `first`, `second` for those that take them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlightning.types import ConfigError
from agentlightning.types.templates import Engine, placeholders, render

_GIVEN = ("prompt_template", "component", "others", "rules")
SEEN_BY_CRITIC = (*_GIVEN, "runs", "experiments")
SEEN_BY_EDITOR = (*_GIVEN, "critique")


@dataclass(frozen=True, slots=True)
class MetaPrompt:
    """One text for critic or editor."""

    name: str
    """For people; the path of a user's file."""
    text: str
    engine: Engine = "jinja"

    def message(self, **values: Any) -> list[dict[str, str]]:
        """The request's messages."""
        text = render(self.text, self.engine, values).strip()
        # What agents said may hold half a surrogate pair, which can't be sent.
        return [{"role": "user", "content": text.encode(errors="replace").decode()}]


def load(field: str, files: Sequence[str | os.PathLike[str]], seen: Sequence[str]) -> tuple[MetaPrompt, ...]:
    """Users' own texts: Jinja, or POML where the file's name ends so.

    Args:
        field: How the user calls the list, for messages.
        files: Paths.
        seen: Values that the template may use.

    Raises:
        ConfigError: a file that can't be read or parsed, or that uses a value which there is not.
    """
    if isinstance(files, str | os.PathLike) or not files:
        raise ConfigError(f"`{field}` must be a list of paths, not {files!r}")
    return tuple(_load(field, Path(file), seen) for file in files)


def _load(field: str, path: Path, seen: Sequence[str]) -> MetaPrompt:
    engine: Engine = "poml" if path.suffix == ".poml" else "jinja"
    try:
        text = path.read_text(encoding="utf-8")
        unknown = placeholders(text, engine) - set(seen)
    except (OSError, ValueError) as error:
        raise ConfigError(f"`{field}`: {path} can't be used as a template: {error}") from error
    if unknown:
        names = ", ".join(f"`{name}`" for name in seen)
        raise ConfigError(f"`{field}`: {path} uses `{min(unknown)}`, which there is not; it may use {names}")
    return MetaPrompt(str(path), text, engine)


_SETTING = """\
{% if others %}\
The agent works with several prompts. This is about `{{ component }}`; the others ({{ others | join(", ") }}) stay as
they are.

{% endif %}\
"""

_PROMPT = """\
<prompt>
{{ prompt_template }}
</prompt>

"""

_CRITIQUE = """\
<critique>
{{ critique }}
</critique>

"""

_RULES = """

Rules for the new prompt:
{{ rules }}

"""

_IN_TAGS = "Put the whole new prompt between <new_prompt> and </new_prompt>. Nothing but the prompt goes in there."

CRITICS = (
    MetaPrompt(
        "changes",
        "You review the prompt of an AI agent. First the prompt, then what came of it on some tasks; a higher reward "
        "is better.\n\n"
        + _SETTING
        + _PROMPT
        + "{{ runs }}"
        + """

Compare the runs that went well with those that did not, and work out which words of the prompt, or which missing
words, made the difference. Errors and feedback say most.

Answer with at most five bullet points, the most useful first. Each names one concrete change to the prompt: what to
add, drop or replace, and in which words. A change has to help on tasks of this kind that are not shown, so leave out
names, numbers and answers of single tasks. Do not write the new prompt itself.""",
    ),
    MetaPrompt(
        "causes",
        "An AI agent was given this prompt:\n\n"
        + _SETTING
        + _PROMPT
        + """\
Below is what happened when it worked on some tasks. A higher reward is better.

{{ runs }}

For each run that fell short, ask what the agent was not told, was told badly, or was told and should not have been:
goal, steps, limits, form of the answer. Look for causes that several runs share.

Write a brief critique: three to five bullet points, each a cause together with the change to the prompt that removes
it. Be specific enough that somebody who has not seen the runs could make the change. Keep clear of advice that holds
for one task alone, and do not rewrite the prompt.""",
    ),
)
"""For `critique`: what to change."""

EDITORS = (
    MetaPrompt(
        "revise",
        "Revise the prompt of an AI agent. This is how it stands:\n\n"
        + _SETTING
        + _PROMPT
        + "A reviewer who saw it at work says:\n\n"
        + _CRITIQUE
        + "Work the critique into the prompt. Keep what it does not object to; you are free to reorder and to rewrite."
        + _RULES
        + _IN_TAGS,
    ),
    MetaPrompt(
        "careful",
        "Here is the prompt of an AI agent:\n\n"
        + _SETTING
        + _PROMPT
        + "And this is a critique of it:\n\n"
        + _CRITIQUE
        + "Address ONE critique point, the one that promises most, with as small a change as does it. Everything else "
        + "keeps its wording, tone and length."
        + _RULES
        + _IN_TAGS,
    ),
)
"""For `critique`: the new text."""

REFLECTION = MetaPrompt(
    "reflect",
    "An AI agent works by this prompt:\n\n"
    + _SETTING
    + _PROMPT
    + """\
These are tasks that it was given, what it did, and what was said about it. A higher reward is better.

{{ runs }}

Write a better prompt for the same agent. First think about what the tasks ask for, which facts about the field of
work show in them and in the feedback, and which way of going about it led to high rewards. Then write down in the
prompt all that the agent needs to know for further tasks of this kind: it sees neither these runs nor the feedback."""
    + _RULES
    + "Give the whole new prompt within ``` fences.",
)
"""For `reflect`: critique and edit in one."""

PARAPHRASE = MetaPrompt(
    "paraphrase",
    "Paraphrase the prompt of an AI agent: say the same in different words, and in another order where that reads "
    "well. Keep its meaning; add nothing and leave nothing out.\n\n" + _SETTING + _PROMPT.rstrip() + _RULES + _IN_TAGS,
)
"""For `paraphrase`."""

MERGE = MetaPrompt(
    "merge",
    "Two prompts for the same AI agent were improved on separate ways. Each does well where the other does not.\n\n"
    + _SETTING
    + """\
<first_prompt>
{{ first }}
</first_prompt>

<second_prompt>
{{ second }}
</second_prompt>

Merge them into one prompt that holds what is useful in either. Where they say the same, say it once; where they
contradict each other, decide for what seems right."""
    + _RULES
    + _IN_TAGS,
)
"""For `merge`."""

HISTORY = MetaPrompt(
    "history",
    "Below are prompts for an AI agent with the score that each of them reached, from the lowest to the highest.\n\n"
    + _SETTING
    + """\
{% for each in history %}\
<prompt>
{{ each.text }}
</prompt>
Score: {{ each.score }}

{% endfor %}\
{% if runs %}\
For orientation, some of the tasks:

{{ runs }}

{% endif %}\
Write a prompt that differs from all of them and reaches a higher score. See what the high ones have in common that
the low ones lack."""
    + _RULES
    + _IN_TAGS,
)
"""For `history`."""
