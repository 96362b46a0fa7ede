"""Resources: what an algorithm tunes and an agent uses. Names and fields follow Agent-Lightning 0.3."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from .templates import Engine, placeholders, render


class Resource(BaseModel):
    """Base of all resources; `isinstance(value, Resource)` tells whether something is one."""

    resource_type: Any


class LLM(Resource):
    """An OpenAI-compatible endpoint and the model to ask for."""

    resource_type: Literal["llm"] = "llm"
    endpoint: str
    """Base URL as the `openai` client wants it, usually ending in `/v1`."""
    model: str
    api_key: str | None = None
    sampling_parameters: dict[str, Any] = Field(default_factory=dict[str, Any])

    def get_base_url(self, rollout_id: str | None = None, attempt_id: str | None = None) -> str:
        """The URL to call. A plain LLM is the same for every rollout, so the ids are not used."""
        return self.endpoint


class ProxyLLM(LLM):
    """An LLM behind our gateway, whose URL says which rollout and attempt is calling.

    Made by `LLMProxy.as_resource`: before an attempt ends, its runner asks the gateway whether all calls are on record.
    An endpoint of another kind is an `LLM`.
    """

    resource_type: Literal["proxy_llm"] = "proxy_llm"  # type: ignore[assignment]  # the discriminator of the union
    confirms_calls: bool = False
    """Whether the runner can ask the gateway if all calls of an attempt are in the store; `LLMProxy.as_resource` says
    so. Made by hand, a `ProxyLLM` may stand for a gateway that knows nothing of attempts."""

    def get_base_url(self, rollout_id: str | None = None, attempt_id: str | None = None) -> str:
        """The URL for one attempt: `/rollout/<rid>/attempt/<aid>` goes in front of a trailing `/v1`.

        Raises:
            ValueError: only one of the two ids is given.
        """
        if rollout_id is None and attempt_id is None:
            return self.endpoint
        if rollout_id is None or attempt_id is None:
            raise ValueError("`get_base_url` takes both `rollout_id` and `attempt_id`, or neither")
        base = self.endpoint.rstrip("/")
        root, version = (base[: -len("/v1")], "/v1") if base.endswith("/v1") else (base, "")
        return f"{root}/rollout/{rollout_id}/attempt/{attempt_id}{version}"

    def with_attempted_rollout(self, rollout: Any) -> LLM:
        """The plain `LLM` that an agent uses within one attempt (`rollout` is an `AttemptedRollout`)."""
        return LLM(
            endpoint=self.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id),
            model=self.model,
            api_key=self.api_key,
            sampling_parameters=self.sampling_parameters,
        )


class PromptTemplate(Resource):
    """A prompt with named places to fill in."""

    resource_type: Literal["prompt_template"] = "prompt_template"
    template: str
    engine: Engine = "f-string"
    """`f-string`: `{name}`. `jinja`: sandboxed Jinja. `poml`: needs the extra `agentlightning[poml]`."""
    input_keys: list[str] | None = None
    """Names that `format` is going to get. A prompt that is tuned may use any of them, and need not use them all."""

    @model_validator(mode="after")
    def _warn_of_places_that_nothing_fills(self) -> Self:
        # A warning: the store must give back what it holds, and only `format` knows for sure.
        if self.input_keys is not None and (unfilled := self._roots() - set(self.input_keys)):
            name = min(unfilled)
            warnings.warn(
                f"`template` has the place `{name}`, which `input_keys` {self.input_keys} does not list; "
                f"add it there, or double the braces where it is meant as text",
                stacklevel=3,
            )
        return self

    def _roots(self) -> set[str]:
        """Names that the template takes, of `task.title` and `task[title]` only `task`."""
        try:
            return {name.split(".")[0].split("[")[0] for name in placeholders(self.template, self.engine)}
        except ValueError:  # no template of that engine; `format` says so, if it is ever called
            return set()

    def format(self, **kwargs: Any) -> str:
        """The prompt with `kwargs` filled in. POML's messages come as one text, without their roles.

        Raises:
            KeyError: the template names a place that `kwargs` lacks.
            ValueError: it can't be rendered.
            ImportError: the engine is `poml` and that package isn't installed.
        """
        return render(self.template, self.engine, kwargs)


ResourceUnion = Annotated[LLM | ProxyLLM | PromptTemplate, Field(discriminator="resource_type")]
NamedResources = dict[str, ResourceUnion]


class ResourcesUpdate(BaseModel):
    """One version of the named resources."""

    resources_id: str
    create_time: float
    update_time: float
    version: int
    resources: NamedResources
