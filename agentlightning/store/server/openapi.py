"""The OpenAPI 3.1 document of the server, at `/openapi.json`. Made from the table of routes when first asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from ..base import LightningStore
from ..wire import dump
from .bodies import ErrorAnswer
from .call import JSON, Call, Route

REFERENCES = "#/components/schemas/{model}"


class OpenApi:
    """The document of `routes`."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    async def serve(self, store: LightningStore, call: Call) -> bytes:
        """The handler of `/openapi.json`."""
        return self._text

    @cached_property
    def _text(self) -> bytes:
        return dump(document(self._routes))


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI document as JSON values."""
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Agent-Lightning store", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _schemas(routes: Sequence[Route]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Schemas by the `repr` of their type, and the models that they refer to."""
    types = {repr(kind): kind for route in routes for kind in (route.body, route.query, route.answer)}
    types[repr(ErrorAnswer)] = ErrorAnswer
    wanted: list[tuple[str, Any, TypeAdapter[Any]]] = [
        (name, "validation", TypeAdapter(kind)) for name, kind in types.items() if kind not in (None, bytes)
    ]
    found, definitions = TypeAdapter.json_schemas(wanted, ref_template=REFERENCES, schema_generator=GenerateJsonSchema)
    return {name: schema for (name, _), schema in found.items()}, definitions.get("$defs", {})


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    refusal = {"description": "Refused, or failed.", "content": {JSON: {"schema": schemas[repr(ErrorAnswer)]}}}
    answer: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    if route.answer is not None:
        answer["content"] = _content(route.answer_content, route.answer, schemas)
    found: dict[str, Any] = {
        "operationId": f"{route.operation}_{route.method.lower()}",
        "summary": route.operation.replace("_", " "),
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {str(route.status): answer, "default": refusal},
    }
    if route.body is not None:
        found["requestBody"] = {"content": _content(route.content, route.body, schemas)}
    return found


def _content(kinds: Sequence[str], shape: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"schema": {} if shape is bytes else schemas[repr(shape)]} for kind in kinds}


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = TypeAdapter(route.query).json_schema()
    needed = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": field}
        for name, field in schema["properties"].items()
    ]
