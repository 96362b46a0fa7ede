"""The nouns: what they refuse."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agentlightning.types import RolloutConfig


def test_a_misspelt_field_of_a_rollouts_configuration_is_an_error():
    with pytest.raises(ValidationError, match="retry_conditions"):
        RolloutConfig.model_validate({"max_attempts": 3, "retry_conditions": ["timeout"]})
