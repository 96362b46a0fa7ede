"""Our names beside those of OpenTelemetry's own package."""

from __future__ import annotations

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, exception_attributes

from agentlightning import semconv
from agentlightning.llm_proxy.attempts import AttemptState
from agentlightning.llm_proxy.capture import CallRecord

OURS = sorted(name for name in vars(semconv) if name.startswith(("GEN_AI_", "EXCEPTION_", "ERROR_")))


@pytest.mark.parametrize("name", OURS)
def test_a_name_of_opentelemetry_is_spelt_as_there(name: str) -> None:
    theirs = [module for module in (gen_ai_attributes, error_attributes, exception_attributes) if hasattr(module, name)]
    assert getattr(theirs[0], name) == getattr(semconv, name)


@pytest.mark.parametrize("interface", ["chat", "completions", "responses", "messages", "embeddings"])
def test_the_gateway_writes_values_that_the_convention_knows(interface: str) -> None:
    record = CallRecord(AttemptState("ro", "at", "0" * 32, None, None, 0.0), 1, interface)  # type: ignore[arg-type]
    operations = {value.value for value in gen_ai_attributes.GenAiOperationNameValues}
    providers = {value.value for value in gen_ai_attributes.GenAiProviderNameValues}
    assert record.attributes[semconv.GEN_AI_OPERATION_NAME] in operations
    assert record.attributes[semconv.GEN_AI_PROVIDER_NAME] in providers
