"""Resources: what an algorithm tunes and an agent uses. Names and fields follow Agent-Lightning 0.3."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field


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
    engine: Literal["f-string", "jinja", "poml"] = "f-string"
    """`f-string`: `{name}`. `jinja`: sandboxed Jinja. `poml` is stored and passed on, not rendered here."""
    input_keys: list[str] | None = None
    """Names that `format` is expected to get; for readers and checks, not needed to format."""

    def format(self, **kwargs: Any) -> str:
        """The prompt with `kwargs` filled in.

        Raises:
            KeyError: the template names a place that `kwargs` lacks.
            NotImplementedError: the engine is `poml`.
        """
        if self.engine == "f-string":
            return self.template.format(**kwargs)
        if self.engine == "jinja":
            return _render_jinja(self.template, kwargs)
        raise NotImplementedError("`engine` 'poml' is not rendered here; call the `poml` package on `template`")


def _render_jinja(template: str, values: dict[str, Any]) -> str:
    from jinja2 import StrictUndefined, UndefinedError  # costs 30 ms to import
    from jinja2.sandbox import SandboxedEnvironment

    try:
        return SandboxedEnvironment(undefined=StrictUndefined).from_string(template).render(values)
    except UndefinedError as error:
        raise KeyError(str(error)) from error


ResourceUnion = Annotated[LLM | ProxyLLM | PromptTemplate, Field(discriminator="resource_type")]
NamedResources = dict[str, ResourceUnion]


class ResourcesUpdate(BaseModel):
    """One version of the named resources."""

    resources_id: str
    create_time: float
    update_time: float
    version: int
    resources: NamedResources
