"""Which backend speaks to which provider, by the prefix that LiteLLM puts in front of a model's name.

Used by `entries` to read a model list and by `routes` to make what it describes. Imports a backend only to make one.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Final, Literal

from agentlightning.types import ConfigError

if TYPE_CHECKING:
    from .backend import Backend
    from .entries import Connection

Provider = Literal["openai", "sglang", "anthropic", "litellm"]

_OWN: Final[dict[str, Provider]] = {
    "openai": "openai",
    "hosted_vllm": "openai",
    "custom_openai": "openai",
    "lm_studio": "openai",
    "sglang": "sglang",
    "anthropic": "anthropic",
}
_LITELLM = frozenset(
    """a2a_agent ai21 ai21_chat aiml aiohttp_openai amazon_nova anyscale assemblyai azure azure_ai azure_text baseten
    bedrock bedrock_converse bedrock_mantle bytez cerebras chatgpt clarifai cloudflare codestral cohere cohere_chat
    cometapi compactifai dashscope databricks datarobot deepgram deepinfra deepseek docker_model_runner elevenlabs
    empower featherless_ai fireworks_ai friendliai galadriel gemini gigachat github github_copilot gradient_ai groq
    helicone heroku huggingface hyperbolic infinity jina_ai lambda_ai langgraph lemonade litellm_proxy llamafile
    llamagate maritalk meta_llama minimax mistral moonshot morph nano-gpt nebius nlp_cloud novita nscale nvidia_nim
    oci ollama ollama_chat oobabooga openai_like openrouter ovhcloud perplexity petals poe predibase publicai
    replicate sagemaker sagemaker_chat sambanova sap snowflake synthetic text-completion-codestral
    text-completion-openai together_ai topaz triton v0 vercel_ai_gateway vertex_ai vertex_ai_beta vllm volcengine
    voyage wandb watsonx watsonx_text xai xinference zai""".split()  # noqa: SIM905
)
_LITELLM_OPTIONS = frozenset(
    """api_version aws_access_key_id aws_bedrock_runtime_endpoint aws_profile_name aws_region_name aws_role_name
    aws_secret_access_key aws_session_name aws_session_token aws_sts_endpoint aws_web_identity_token azure_ad_token
    azure_password azure_username client_id client_secret extra_headers organization project region_name tenant_id
    vertex_credentials vertex_location vertex_project watsonx_region_name""".split()  # noqa: SIM905
)
OPTIONS: Final[dict[Provider, frozenset[str]]] = {
    "openai": frozenset(["tempered_logprobs", "speaks"]),
    "sglang": frozenset(["tempered_logprobs", "speaks", "exact_streams"]),
    "anthropic": frozenset(),
    "litellm": _LITELLM_OPTIONS,
}
"""What an entry may hold for one kind of backend alone; `connect` hands it on as it is."""

_DEFAULTS: Final[dict[Provider, tuple[str, str]]] = {
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "anthropic": ("https://api.anthropic.com", "ANTHROPIC_API_KEY"),
}


def provider_of(model: str) -> tuple[str, Provider, str]:
    """How a model is reached.

    Returns:
        The prefix (empty where there is none), the backend's kind, and the name of the model that it is to be told.
    """
    prefix, slash, name = model.partition("/")
    if slash and prefix in _OWN:
        return prefix, _OWN[prefix], name
    if slash and prefix in _LITELLM:
        return prefix, "litellm", model
    return "", "openai", model


def default_endpoint(prefix: str) -> tuple[str, str] | None:
    """URL of the provider itself and the variable that holds its key, for an entry without `api_base`."""
    return _DEFAULTS.get(prefix)  # pyright: ignore[reportArgumentType, reportCallIssue]


def connect(connection: Connection) -> Backend:
    """The backend that an entry describes.

    Raises:
        ConfigError: it needs LiteLLM, which is not installed.
    """
    if connection.provider == "litellm":
        return _litellm(connection)
    assert connection.base_url is not None
    options: dict[str, Any] = {"model": connection.model, "timeout": connection.timeout, **connection.options}
    if connection.provider == "anthropic":
        from .backends.anthropic import AnthropicBackend

        return AnthropicBackend(connection.base_url, connection.api_key, **options)
    if connection.provider == "sglang":
        from .backends.sglang import SGLangBackend

        return SGLangBackend(connection.base_url, connection.api_key, **options)
    from .backends.openai import HttpBackend

    return HttpBackend(connection.base_url, connection.api_key, **options)


def _litellm(connection: Connection) -> Backend:
    if importlib.util.find_spec("litellm") is None:
        raise ConfigError(
            f"the model {connection.model!r} is reached through LiteLLM, which is not here:"
            " `pip install agentlightning[litellm]`; or put `openai/` before the name if its endpoint speaks"
            " OpenAI's interface"
        )
    from .backends.litellm import LiteLLMBackend

    return LiteLLMBackend(
        connection.model,
        api_base=connection.base_url,
        api_key=connection.api_key,
        timeout=connection.timeout,
        **connection.options,
    )
