"""Rows and matrices of a step: the same tokens in two views, whatever the rollouts look like."""

import numpy as np
import pytest
from hypothesis import given, settings

from agentlightning.verl.experience import Experience
from agentlightning.verl.rows import score
from tests.adapter.test_graph import traces

from .batches import identical
from .rollouts import call, one_turn, sample


def experience_of(*samples, credit=identical):
    return Experience.of(score([list(samples)], "main_llm", credit))


def test_lines_are_as_long_as_the_longest_rollout():
    experience = experience_of(one_turn(0, 0, 1.0, length=3), one_turn(0, 1, 1.0, length=1))
    assert experience.lengths.tolist() == [3, 1]
    assert experience.mask_RT.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert experience.matrix_RT("rollout_logprobs").tolist() == [[-1, -1, -1], [-1, 0, 0]]


def test_rollouts_without_a_token_have_empty_lines():
    empty = sample(0, 1, [call([1, 2], [])], 1.0)
    experience = experience_of(one_turn(0, 0, 1.0), empty)
    assert experience.mask_RT.tolist() == [[1, 1], [0, 0]]
    assert experience_of(empty).mask_RT.shape == (1, 0)
    assert experience_of(empty).columns_of(experience_of(empty).mask_RT) == []
    assert experience_of(empty).turn_ends() == {}


@settings(max_examples=40, deadline=None)
@given(traces())
def test_columns_become_lines_and_lines_columns(calls):
    """Random branching traces: the way there and back is the identity, and a line runs through the turns in order."""
    calls = [made for made in calls if made.prompt_ids.size]
    experience = experience_of(sample(0, 0, calls, 1.0), one_turn(0, 1, 0.0))
    columns = [turns.astype(np.float32) for turns in experience.turns]
    line = experience.matrix_RT(columns)
    for back, column in zip(experience.columns_of(line), columns, strict=True):
        assert back.tolist() == column.tolist()
    length = int(experience.lengths[0])
    turns = line[0, :length].tolist()
    assert turns == sorted(turns)
    ends = {turn: place for (rollout, turn), place in experience.turn_ends().items() if rollout == 0}
    assert ends == {turn: place for place, turn in enumerate(turns)}, "the last place of each turn"


def test_rollouts_are_selected_with_their_rows_and_may_come_twice():
    branches = sample(0, 0, [call([1, 2], [3, 4]), call([9, 8], [6])], 1.0)
    experience = experience_of(branches, one_turn(0, 1, 0.5, length=3))
    chosen, origin = experience.select([1, 0, 1])
    assert [item.reward for item in chosen.rollouts] == [0.5, 1.0, 0.5]
    assert [row.sequence for row in chosen.rows] == [0, 1, 1, 2]
    assert origin == [2, 0, 1, 2]
    assert chosen.lengths.tolist() == [3, 3, 3]


def test_a_rollout_without_a_score_is_a_group_of_its_own():
    def credit(episode, group):
        return [None] if episode.reward == 0.5 else [episode.reward]

    experience = experience_of(one_turn(0, 0, 1.0), one_turn(0, 1, 0.5), one_turn(0, 2, 0.0), credit=credit)
    first, second, third = experience.labels
    assert first == third
    assert second != first


@pytest.mark.parametrize("column", ["old_logprobs", "advantages"])
def test_columns_are_added_without_touching_the_rows_there_were(column):
    before = experience_of(one_turn(0, 0, 1.0))
    after = before.with_columns(**{column: [np.array([5.0, 6.0], np.float32)]})
    assert after.rows[0].columns[column].tolist() == [5.0, 6.0]
    assert column not in before.rows[0].columns
