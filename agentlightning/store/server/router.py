"""Finds the route of a path. Called by `api`; a lookup costs about a microsecond."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from .call import Route

Found = tuple[Route, tuple[str, ...]]
"""A route and the values of the names in its path."""


class UnknownPath(LookupError):
    """No route has this path."""


class WrongMethod(LookupError):
    """Routes have this path, but with other methods (`allowed`)."""

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class Router:
    """The table of routes. A fixed part of a path goes before a name in its place."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._fixed = {(route.method, route.path): route for route in routes if "{" not in route.path}
        self._varying: dict[tuple[str, int], list[tuple[list[str], Route]]] = {}
        for route in sorted(routes, key=lambda route: route.path.count("{")):
            if "{" in route.path:
                parts = route.path.split("/")
                self._varying.setdefault((route.method, len(parts)), []).append((parts, route))
        self._methods = sorted({route.method for route in routes})

    def find(self, method: str, path: str) -> Found:
        """The route of `path`, which is percent-encoded as it came.

        Raises:
            UnknownPath: there is none.
            WrongMethod: there is one with another method.
        """
        found = self._find(method, path)
        if found is not None:
            return found
        allowed = [other for other in self._methods if self._find(other, path)]
        if allowed:
            raise WrongMethod(f"`{path[:200]}` does not take {method}, but {' and '.join(allowed)}", allowed)
        raise UnknownPath(f"no such path `{path[:200]}`; `/openapi.json` lists those that there are")

    def _find(self, method: str, path: str) -> Found | None:
        fixed = self._fixed.get((method, path)) or self._fixed.get((method, path.rstrip("/")))
        if fixed is not None:
            return fixed, ()
        parts = path.split("/")
        for pattern, route in self._varying.get((method, len(parts)), ()):
            values = _match(pattern, parts)
            if values is not None:
                return route, values
        return None


def _match(pattern: list[str], parts: list[str]) -> tuple[str, ...] | None:
    values: list[str] = []
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted[:1] == "{":
            if not part:
                return None
            values.append(unquote(part) if "%" in part else part)
        elif wanted != part:
            return None
    return tuple(values)
