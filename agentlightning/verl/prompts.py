"""Rows of verl's format -> tasks of the built-in agent: checked whole, before anything is started.

A row has `prompt` (chat messages), `data_source` (which rule scores the answer), `reward_model` with `ground_truth`,
and `extra_info`; other columns are not read. Called by `main_ppo` and `agl eval`, which read the files;
`prompt_lengths` comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import orjson

from agentlightning.types import ConfigError, DatasetError

from .reward.rules import find_rule

logger = logging.getLogger(__name__)

ROLES = ("system", "developer", "user", "assistant", "tool")
MEDIA = ("images", "videos", "audios")
SINGLE_TURN = "single_turn_agent"
"""What `agent_name` may say: this agent asks once."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mends:
    """What a user of the command can do about a row that can't be used."""

    prompt: str = "Name the right one in `data.prompt_key`"
    """The column of the messages is missing."""
    source: str = "Name the right one in `data.reward_fn_key`"
    """The column of the data source is missing."""
    reward: str = "set `reward.custom_reward_function.path` to it"
    """No rule scores; the user has written a function."""


def prompt_rows(
    file: str,
    rows: Sequence[Any],
    *,
    prompt_key: str = "prompt",
    reward_fn_key: str = "data_source",
    builtin_rewards: bool = True,
    mends: Mends | None = None,
) -> list[Json]:
    """The rows of a file as tasks, each with `prompt`, `data_source`, `reward_model` and `extra_info`.

    Args:
        file: Its name, for the messages.
        rows: As read.
        prompt_key: Column with the messages.
        reward_fn_key: Column that says which rule scores.
        builtin_rewards: Whether the rules score, which need a known source and a ground truth.
        mends: What the messages tell the user to do; default: `main_ppo`'s settings.

    Raises:
        DatasetError: a row can't be used; names file, row (from 1) and column. Also where one prompt has two
            different ground truths.
    """
    reader = _Reader(file, prompt_key, reward_fn_key, builtin_rewards, mends or Mends())
    tasks = [reader.row(number, row) for number, row in enumerate(rows, 1)]
    _check_duplicates(file, tasks, prompt_key)
    return tasks


def warn_of_overlap(train: Sequence[Json], val: Sequence[Json]) -> None:
    """Say so where validation asks what training teaches."""
    known = {_key(task) for task in train}
    shared = sum(_key(task) in known for task in val)
    if shared:
        logger.warning(
            "%d of %d validation prompts are also in the training data: validation measures memory there",
            shared,
            len(val),
        )


class _Reader:
    def __init__(self, file: str, prompt_key: str, source_key: str, builtin: bool, mends: Mends) -> None:
        self.file = file
        self.mends = mends
        self.prompt_key = prompt_key
        self.source_key = source_key
        self.builtin = builtin

    def row(self, number: int, row: Any) -> Json:
        if not isinstance(row, Mapping):
            self._refuse(number, None, f"is a {type(row).__name__}; a row must be an object with columns")
        fields = cast("Mapping[str, Any]", row)
        self._check_agent(number, fields)
        task: Json = {
            "prompt": self._messages(number, self._need(number, fields, self.prompt_key, self.mends.prompt)),
            "data_source": self._source(number, fields),
            "reward_model": self._truth(number, fields.get("reward_model")),
            "extra_info": self._mapping(number, "extra_info", fields.get("extra_info")),
        }
        for column, value in task.items():
            try:
                orjson.dumps(value)
            except TypeError as error:
                self._refuse(number, column, f"holds what is no JSON value: {error}")
        return task

    def _check_agent(self, number: int, fields: Mapping[str, Any]) -> None:
        agent = fields.get("agent_name")
        if agent is not None and agent != SINGLE_TURN:
            self._refuse(
                number,
                "agent_name",
                f"is {agent!r}; here runs `{SINGLE_TURN}`. For another agent write it and use `agl train`",
            )
        for column in MEDIA:
            if fields.get(column):
                self._refuse(number, column, "is not empty; the native engine reads text only")

    def _need(self, number: int, fields: Mapping[str, Any], column: str, mend: str) -> Any:
        if column not in fields:
            have = ", ".join(f"`{name}`" for name in fields) or "none"
            self._refuse(number, column, f"is missing; the columns are {have}. {mend}")
        return fields[column]

    def _source(self, number: int, fields: Mapping[str, Any]) -> str:
        if not self.builtin and self.source_key not in fields:
            return "unknown"
        source = self._need(number, fields, self.source_key, self.mends.source)
        if not isinstance(source, str) or not source:
            self._refuse(number, self.source_key, f"must be a text, not {source!r:.60}")
        if self.builtin:
            try:
                find_rule(source, self.mends.reward)
            except ConfigError as error:
                self._refuse(number, self.source_key, str(error))
        return source

    def _truth(self, number: int, value: Any) -> Json:
        model = self._mapping(number, "reward_model", value)
        truth = model.get("ground_truth")
        if self.builtin and (isinstance(truth, bool) or not isinstance(truth, (str, int, float)) or truth == ""):
            self._refuse(
                number,
                "reward_model.ground_truth",
                f"must be the known result, as text or number, not {truth!r:.60}; without one, write a function "
                f"`compute_score` in a file and {self.mends.reward}",
            )
        return model

    def _mapping(self, number: int, column: str, value: Any) -> Json:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._refuse(number, column, f"must be an object, not {value!r:.60}")
        return dict(cast("Mapping[str, Any]", value))

    def _messages(self, number: int, value: Any) -> list[Json]:
        column = self.prompt_key
        if isinstance(value, str):
            shown = '[{"role": "user", "content": "..."}]'
            self._refuse(number, column, f"is a text; it must be a list of chat messages, as in `{shown}`")
        if not isinstance(value, Sequence):
            self._refuse(number, column, f"must be a list of chat messages, not {value!r:.60}")
        if not value:
            self._refuse(number, column, "is empty; a prompt has at least one message")
        return [self._message(number, at, message) for at, message in enumerate(cast("Sequence[Any]", value))]

    def _message(self, number: int, at: int, value: Any) -> Json:
        column = f"{self.prompt_key}[{at}]"
        if not isinstance(value, Mapping):
            self._refuse(number, column, f"must be an object with `role` and `content`, not {value!r:.60}")
        # Parquet gives every message all the fields that any of them has.
        message = {str(k): v for k, v in cast("Mapping[Any, Any]", value).items() if v is not None}
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            self._refuse(number, f"{column}.role", f"must be one of {', '.join(ROLES)}, not {role!r:.60}")
        if not isinstance(content, (str, list)) and "tool_calls" not in message:
            self._refuse(number, f"{column}.content", f"must be a text, not {content!r:.60}")
        if not (content.strip() if isinstance(content, str) else content) and "tool_calls" not in message:
            self._refuse(number, f"{column}.content", "is empty")
        return message

    def _refuse(self, number: int, column: str | None, problem: str) -> NoReturn:
        where = "" if column is None else f", column `{column}`"
        raise DatasetError(f"dataset `{self.file}`, row {number}{where}: {problem}")


def _key(task: Json) -> bytes:
    return orjson.dumps([task["data_source"], task["prompt"]])


def _check_duplicates(file: str, tasks: Sequence[Json], prompt_key: str) -> None:
    """Refuse one prompt with two truths; say so where rows repeat."""
    seen: dict[bytes, int] = {}
    repeated: list[tuple[int, int]] = []
    for number, task in enumerate(tasks, 1):
        first = seen.setdefault(_key(task), number)
        if first == number:
            continue
        before, now = (t["reward_model"].get("ground_truth") for t in (tasks[first - 1], task))
        if before != now:
            raise DatasetError(
                f"dataset `{file}`, row {number}, column `{prompt_key}`: the prompt is that of row {first}, but "
                f"`reward_model.ground_truth` is {now!r:.60} here and {before!r:.60} there; remove one of them"
            )
        repeated.append((first, number))
    if repeated:
        first, number = repeated[0]
        logger.warning(
            "dataset `%s`: %d rows repeat an earlier one (row %d is row %d); each counts",
            file,
            len(repeated),
            number,
            first,
        )
