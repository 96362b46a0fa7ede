"""The OpenAPI document: valid, and about every route that there is."""

from __future__ import annotations

from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from agentlightning.store import InMemoryLightningStore
from agentlightning.store.server.api import Api
from agentlightning.store.server.metrics import Metrics

from .conftest import Http


async def test_the_document_is_valid(http: Http):
    document = (await http.get("/openapi.json")).body
    assert document["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(document).validate()


async def test_every_route_is_in_it_with_its_shapes(http: Http):
    document = (await http.get("/openapi.json")).body
    routes = Api(InMemoryLightningStore(), Metrics()).routes
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert listed == {(route.method, route.path) for route in routes}
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))
    for route in routes:
        operation: dict[str, Any] = document["paths"][route.path][route.method.lower()]
        assert ("requestBody" in operation) == (route.body is not None)
        assert ("content" in operation["responses"][str(route.status)]) == (route.answer is not None)
        named = {parameter["name"] for parameter in operation["parameters"]}
        assert named >= {part[1:-1] for part in route.path.split("/") if part.startswith("{")}


async def test_shapes_come_from_the_models(http: Http):
    document = (await http.get("/openapi.json")).body
    span = document["components"]["schemas"]["Span"]["properties"]
    assert {"rollout_id", "sequence_id", "attributes", "token_call"} <= set(span)
    query = document["paths"]["/v1/agl/rollouts"]["get"]["parameters"]
    assert {"status_in", "sort_by", "limit", "offset"} <= {parameter["name"] for parameter in query}
