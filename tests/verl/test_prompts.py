"""Rows of verl's format: what is read, and what is refused with file, row and column."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import Any

import pytest

from agentlightning.types import DatasetError
from agentlightning.verl.prompt_lengths import fit_prompts
from agentlightning.verl.prompts import prompt_rows, warn_of_overlap


def row(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "What is 2 + 2?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 0, "split": "train"},
    }
    made = {**good, **changes}
    return {name: value for name, value in made.items() if value != "absent"}


def test_a_row_becomes_a_task_of_four_columns() -> None:
    [task] = prompt_rows("f", [row(images=None, agent_name="single_turn_agent")])
    assert task == {
        "prompt": [{"role": "user", "content": "What is 2 + 2?"}],
        "data_source": "openai/gsm8k",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 0, "split": "train"},
    }


def test_columns_may_have_other_names() -> None:
    given = {"question": row()["prompt"], "kind": "aime", "reward_model": {"ground_truth": 4}}
    [task] = prompt_rows("f", [given], prompt_key="question", reward_fn_key="kind")
    assert (task["prompt"], task["data_source"], task["extra_info"]) == (given["question"], "aime", {})


def test_fields_that_parquet_filled_in_are_dropped_from_messages() -> None:
    messages = [{"role": "user", "content": "hi", "tool_calls": None, "name": None}]
    assert prompt_rows("f", [row(prompt=messages)])[0]["prompt"] == [{"role": "user", "content": "hi"}]


def test_a_custom_reward_needs_neither_source_nor_truth() -> None:
    [task] = prompt_rows("f", [{"prompt": row()["prompt"]}], builtin_rewards=False)
    assert (task["data_source"], task["reward_model"]) == ("unknown", {})


@pytest.mark.parametrize(
    ("changes", "column", "expected"),
    [
        ({"prompt": "absent"}, "prompt", "is missing; the columns are `data_source`"),
        ({"prompt": []}, "prompt", "is empty"),
        ({"prompt": "What is 2 + 2?"}, "prompt", 'as in `[{"role": "user"'),
        ({"prompt": 3}, "prompt", "not 3"),
        ({"prompt": ["hi"]}, "prompt[0]", "`role` and `content`"),
        ({"prompt": [{"role": "user", "content": " "}]}, "prompt[0].content", "is empty"),
        ({"prompt": [{"role": "user"}]}, "prompt[0].content", "must be a text, not None"),
        ({"prompt": [{"role": "human", "content": "hi"}]}, "prompt[0].role", "not 'human'"),
        ({"data_source": "absent"}, "data_source", "`data.reward_fn_key`"),
        ({"data_source": 3}, "data_source", "must be a text"),
        ({"data_source": "my/data"}, "data_source", "`reward.custom_reward_function.path`"),
        ({"reward_model": "absent"}, "reward_model.ground_truth", "not None"),
        ({"reward_model": {"ground_truth": ""}}, "reward_model.ground_truth", "not ''"),
        ({"reward_model": {"ground_truth": ["4"]}}, "reward_model.ground_truth", "not ['4']"),
        ({"reward_model": "4"}, "reward_model", "must be an object"),
        ({"extra_info": [1]}, "extra_info", "must be an object"),
        ({"extra_info": {"when": datetime.timedelta(1)}}, "extra_info", "no JSON value"),
        ({"images": [b"..."]}, "images", "reads text only"),
        ({"agent_name": "tool_agent"}, "agent_name", "`agl train`"),
    ],
)
def test_what_cannot_be_used_is_refused_by_file_row_and_column(
    changes: dict[str, Any], column: str, expected: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        prompt_rows("train.parquet", [row(), row(**changes)])
    assert str(caught.value).startswith(f"dataset `train.parquet`, row 2, column `{column}`: ")
    assert expected in str(caught.value)


def test_a_row_that_is_no_object_is_refused() -> None:
    with pytest.raises(DatasetError, match="dataset `f`, row 1: is a list"):
        prompt_rows("f", [["hi"]])


def test_one_prompt_with_two_truths_is_refused() -> None:
    with pytest.raises(
        DatasetError, match=r"row 3, column `prompt`: the prompt is that of row 1, but .* '5' here and '4'"
    ):
        prompt_rows("f", [row(), row(data_source="aime"), row(reward_model={"ground_truth": "5"})])


def test_repeated_rows_are_kept_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(prompt_rows("f", [row(), row(), row()])) == 3
    assert "2 rows repeat an earlier one (row 2 is row 1)" in caplog.text


def test_shared_prompts_of_training_and_validation_are_said(caplog: pytest.LogCaptureFixture) -> None:
    train = prompt_rows("f", [row()])
    val = prompt_rows("g", [row(), row(prompt=[{"role": "user", "content": "another"}])])
    with caplog.at_level(logging.WARNING):
        warn_of_overlap(train, val)
    assert "1 of 2 validation prompts" in caplog.text


# -- lengths --------------------------------------------------------------------------------------------------------

WORDS = " ".join(f"w{n}" for n in range(12))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from agentlightning.inference.loading import load_tokenizer
    from agentlightning.learner.tiny_model import tiny_model

    path = tmp_path_factory.mktemp("model") / "tiny"
    return load_tokenizer(tiny_model(path, ["w"], hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1))


def asked(text: str) -> dict[str, Any]:
    return row(prompt=[{"role": "system", "content": "Be short."}, {"role": "user", "content": text}])


def length(tokenizer: Any, task: dict[str, Any]) -> int:
    return len(
        tokenizer.apply_chat_template(task["prompt"], tokenize=True, add_generation_prompt=True, return_dict=False)
    )


def test_prompts_that_fit_stay_as_they_are(tokenizer: Any) -> None:
    task = asked(WORDS)
    assert fit_prompts("f", [task], tokenizer, longest=length(tokenizer, task)) == [task]


def test_a_prompt_one_token_too_long_is_refused_by_row(tokenizer: Any) -> None:
    tokens = length(tokenizer, asked(WORDS))
    with pytest.raises(
        DatasetError, match=rf"`f`, row 2: the prompt has {tokens} tokens, .* is {tokens - 1}"
    ) as caught:
        fit_prompts("f", [asked("w1"), asked(WORDS)], tokenizer, longest=tokens - 1)
    assert "data.filter_overlong_prompts=True" in str(caught.value)


def test_long_prompts_are_left_out_where_asked(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokens = length(tokenizer, asked(WORDS))
    with caplog.at_level(logging.WARNING):
        kept = fit_prompts("f", [asked("w1"), asked(WORDS)], tokenizer, longest=tokens - 1, filter_overlong=True)
    assert kept == [asked("w1")]
    assert "1 of 2 prompts are longer" in caplog.text
    with pytest.raises(DatasetError, match="no prompt has at most"):
        fit_prompts("f", [asked(WORDS)], tokenizer, longest=tokens - 1, filter_overlong=True)


@pytest.mark.parametrize(
    ("side", "first", "last"), [("left", "w0", "w11"), ("right", "w0", "w11"), ("middle", "w0", "w11")]
)
def test_the_longest_text_is_cut_at_the_given_end(tokenizer: Any, side: str, first: str, last: str) -> None:
    longest = length(tokenizer, asked(WORDS)) - 8
    [task] = fit_prompts("f", [asked(WORDS)], tokenizer, longest=longest, truncation=side)
    system, user = task["prompt"]
    assert system == {"role": "system", "content": "Be short."}
    assert length(tokenizer, task) <= longest
    assert length(tokenizer, task) >= longest - 2, "no more is cut than needed"
    assert user["content"].startswith(first) == (side != "left")
    assert user["content"].endswith(last) == (side != "right")


def test_what_cannot_be_cut_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DatasetError, match=r"can't be cut to `data\.max_prompt_length` 5"):
        fit_prompts("f", [asked(WORDS)], tokenizer, longest=5, truncation="left")


def test_rows_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    from agentlightning.algorithm.data import load_dataset

    rows = [row(), row(prompt=[{"role": "system", "content": "Be short."}, {"role": "user", "content": "1?"}])]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    tasks = prompt_rows("rows.parquet", load_dataset(tmp_path / "rows.parquet"))
    assert [task["prompt"] for task in tasks] == [given["prompt"] for given in rows]


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    from agentlightning.algorithm.data import load_dataset

    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["prompt", "prompt"])
    pyarrow.parquet.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(DatasetError, match=r"twice\.parquet`.* column `prompt` twice"):
        load_dataset(tmp_path / "twice.parquet")
