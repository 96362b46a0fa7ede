"""Which backend serves which model name. Filled by `LLMProxy`, read by `gateway` for every call.

Names are changed by replacing a whole table, so other threads may do it while calls are running.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from agentlightning.types import ConfigError, RequestError

from .backend import Backend
from .http_backend import HttpBackend

_PREFIXES = ("hosted_vllm/", "custom_openai/", "lm_studio/", "openai/")
"""Provider names that LiteLLM puts in front of a model; all of them speak OpenAI's interface."""
_PARAMS = ("model", "api_base", "api_key")


class ModelRoutes:
    """Model names and who serves them: backends in this process, and the endpoints of a model list."""

    def __init__(self) -> None:
        self._own: dict[str, Backend] = {}
        self._listed: dict[str, list[HttpBackend]] = {}
        self._clients: dict[tuple[str, str | None, str], HttpBackend] = {}
        # All that ever were: calls may be running on one that is no longer listed.
        self._http: set[HttpBackend] = set()

    @property
    def names(self) -> list[str]:
        """All model names that are served."""
        return list(dict.fromkeys([*self._own, *self._listed]))

    def find(self, model: str, rollout_id: str | None) -> Backend:
        """The backend for `model`; of several endpoints always the same one for a rollout, for its prefix cache.

        Raises:
            RequestError: 404 listing the models that are served.
        """
        own = self._own.get(model)
        if own is not None:
            return own
        listed = self._listed.get(model)
        if not listed:
            known = ", ".join(f"`{name}`" for name in self.names) or "none"
            raise RequestError(
                f"no model `{model}` here; served models: {known}", status=404, param="model", code="model_not_found"
            )
        return listed[zlib.crc32(rollout_id.encode()) % len(listed) if rollout_id else 0]

    def set_backend(self, model_name: str, backend: Backend | None) -> None:
        """Serve `model_name` by `backend`, whatever the model list says; `None` takes it away again."""
        own = {name: value for name, value in self._own.items() if name != model_name}
        if backend is not None:
            own[model_name] = backend
        if isinstance(backend, HttpBackend):
            self._http.add(backend)
        self._own = own

    def set_model_list(self, model_list: Sequence[Mapping[str, Any]]) -> None:
        """Replace the listed endpoints. Several entries of one name share its rollouts.

        Raises:
            ConfigError: an entry that can't be used; nothing has changed then.
        """
        listed: dict[str, list[HttpBackend]] = {}
        for index, entry in enumerate(model_list):
            name, key = _read_entry(entry, f"model_list[{index}]")
            listed.setdefault(name, []).append(self._client(key))
        self._listed = listed

    def _client(self, key: tuple[str, str | None, str]) -> HttpBackend:
        if key not in self._clients:
            base_url, api_key, model = key
            self._clients[key] = HttpBackend(base_url, api_key, model=model)
            self._http.add(self._clients[key])
        return self._clients[key]

    async def close(self) -> None:
        """Close the connections of all HTTP backends; they open again when needed."""
        for client in list(self._http):
            await client.close()


def _read_entry(entry: Mapping[str, Any], where: str) -> tuple[str, tuple[str, str | None, str]]:
    params = entry.get("litellm_params")
    if not isinstance(entry.get("model_name"), str) or not isinstance(params, Mapping):
        raise ConfigError(f"`{where}` must have a `model_name` and `litellm_params`: {dict(entry)!r:.200}")
    unknown = [key for key in params if key not in _PARAMS]
    if unknown:
        raise ConfigError(f"`{where}.litellm_params` has unknown keys {unknown}; known are {', '.join(_PARAMS)}")
    for field in ("model", "api_base"):
        if not isinstance(params.get(field), str):
            raise ConfigError(
                f"`{where}.litellm_params.{field}` must be a string, not {params.get(field)!r};"
                " `model` is the name at the endpoint, `api_base` its URL, usually ending in `/v1`"
            )
    model = params["model"]
    prefix = next((prefix for prefix in _PREFIXES if model.startswith(prefix)), "")
    return entry["model_name"], (params["api_base"], params.get("api_key"), model[len(prefix) :])
