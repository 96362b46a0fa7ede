"""Which route a path leads to."""

from __future__ import annotations

import pytest

from agentlightning.store.base import LightningStore
from agentlightning.store.server.call import NULL, Call, Route
from agentlightning.store.server.router import Router, UnknownPath, WrongMethod


async def handle(store: LightningStore, call: Call) -> bytes:
    return NULL


ROUTER = Router(
    [
        Route(method, path, f"{method} {path}", handle)
        for method, path in (
            ("GET", "/a"),
            ("POST", "/a"),
            ("POST", "/a/search"),
            ("POST", "/a/{x}"),
            ("GET", "/a/{x}/b/{y}"),
            ("GET", "/a/{x}/b/last"),
        )
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "operation", "params"),
    [
        ("GET", "/a", "GET /a", ()),
        ("GET", "/a/", "GET /a", ()),
        ("POST", "/a", "POST /a", ()),
        ("POST", "/a/search", "POST /a/search", ()),
        ("POST", "/a/searches", "POST /a/{x}", ("searches",)),
        ("POST", "/a/one%2Ftwo%20three", "POST /a/{x}", ("one/two three",)),
        ("GET", "/a/1/b/last", "GET /a/{x}/b/last", ("1",)),
        ("GET", "/a/1/b/2", "GET /a/{x}/b/{y}", ("1", "2")),
    ],
)
def test_the_most_fixed_route_wins(method: str, path: str, operation: str, params: tuple[str, ...]):
    route, found = ROUTER.find(method, path)
    assert (route.operation, found) == (operation, params)


@pytest.mark.parametrize("path", ["/", "", "/b", "/a//b/2", "/a/1/b/2/c", "//a"])
def test_unknown_paths(path: str):
    with pytest.raises(UnknownPath, match=r"openapi\.json"):
        ROUTER.find("GET", path)


def test_another_method():
    with pytest.raises(WrongMethod, match="does not take PUT, but GET and POST") as error:
        ROUTER.find("PUT", "/a")
    assert error.value.allowed == ["GET", "POST"]
