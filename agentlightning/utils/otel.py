"""Attributes of spans: nested data to dotted keys and back, tags, links, and what OpenTelemetry can hold.

Called by tracers, emitters and users; names and semantics follow Agent-Lightning 0.3. OpenTelemetry is imported on use.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError

from agentlightning.semconv import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
    LightningSpanAttributes,
    LinkAttributes,
    LinkPydanticModel,
)
from agentlightning.types import Attributes, AttributeValue

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

__all__ = [
    "check_attributes_sanity",
    "extract_links_from_attributes",
    "extract_tags_from_attributes",
    "filter_and_unflatten_attributes",
    "filter_attributes",
    "flatten_attributes",
    "format_exception_attributes",
    "full_qualified_name",
    "get_tracer",
    "get_tracer_provider",
    "make_link_attributes",
    "make_tag_attributes",
    "query_linked_spans",
    "sanitize_attribute_value",
    "sanitize_attributes",
    "sanitize_list_attribute_sanity",
    "unflatten_attributes",
]

logger = logging.getLogger(__name__)

S = TypeVar("S")
_TAG = LightningSpanAttributes.TAG.value
_LINK = LightningSpanAttributes.LINK.value
_SCALARS = (str, bool, int, float)


# -- nested data ----------------------------------------------------------------------------------------------------


def flatten_attributes(
    nested_data: Mapping[str, Any] | Sequence[Any], *, expand_leaf_lists: bool = False
) -> dict[str, Any]:
    """Nested mappings and lists as dotted keys: `{"a": {"b": [{"c": 1}]}}` is `{"a.b.0.c": 1}`.

    Leaves stay as they are; `sanitize_attributes` makes values of them that a span can hold. Empty mappings have no
    leaf and disappear.

    Args:
        nested_data: A mapping with string keys, or a list.
        expand_leaf_lists: Whether lists of one scalar type get a key per item too; others always do.

    Raises:
        ValueError: a key is not a string.
    """
    flat: dict[str, Any] = {}
    _flatten(flat, "", nested_data, expand_leaf_lists)
    return flat


def _flatten(flat: dict[str, Any], key: str, value: Any, expand: bool) -> None:
    if isinstance(value, Mapping):
        for name, item in cast("Mapping[Any, Any]", value).items():
            if not isinstance(name, str):
                where = f" in `{key}`" if key else ""
                raise ValueError(f"attribute keys must be strings, not {type(name).__name__} ({name!r}){where}")
            _flatten(flat, f"{key}.{name}" if key else name, item, expand)
    elif isinstance(value, (list, tuple)) and (not key or _expands(cast("Sequence[Any]", value), expand)):
        for index, item in enumerate(cast("Sequence[Any]", value)):
            _flatten(flat, f"{key}.{index}" if key else str(index), item, expand)
    else:
        flat[key] = value


def _expands(items: Sequence[Any], expand: bool) -> bool:
    """Whether a list becomes one key per item: a span can't hold it as it is."""
    if not items:
        return False
    return expand or not all(isinstance(item, _SCALARS) for item in items) or len({type(item) for item in items}) > 1


def unflatten_attributes(flat_data: Mapping[str, Any]) -> dict[str, Any] | list[Any]:
    """Inverse of `flatten_attributes`: a level whose keys are 0, 1, 2, ... without a gap is a list.

    Where one key is the beginning of another (`a` and `a.b`), the longer one wins.
    """
    root: dict[str, Any] = {}
    for key in sorted(flat_data, key=lambda key: key.count(".")):
        *parents, last = key.split(".")
        level = root
        for name in parents:
            below = level.get(name)
            if not isinstance(below, _Level):
                below = level[name] = _Level()
            level = below
        level[last] = flat_data[key]
    return _listed(root)


class _Level(dict[str, Any]):
    """A dictionary that `unflatten_attributes` made, which is no value of the user's."""


def _listed(level: dict[str, Any]) -> dict[str, Any] | list[Any]:
    found = {key: _listed(value) if isinstance(value, _Level) else value for key, value in level.items()}
    if found and set(found) == {str(index) for index in range(len(found))}:
        return [found[str(index)] for index in range(len(found))]
    return found


def filter_attributes(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Those at or below `prefix` (`a` and `a.b`, not `ab`), under their whole keys."""
    return {key: value for key, value in attributes.items() if key == prefix or key.startswith(f"{prefix}.")}


def filter_and_unflatten_attributes(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any] | list[Any]:
    """What lies below `prefix`, nested again.

    Raises:
        ValueError: there is a value at `prefix` itself, which has no place in a nested form.
    """
    found = filter_attributes(attributes, prefix)
    if prefix in found:
        raise ValueError(f"the attribute `{prefix}` has a value of its own, so it can't be nested; read it directly")
    return unflatten_attributes({key[len(prefix) + 1 :]: value for key, value in found.items()})


# -- tags and links -------------------------------------------------------------------------------------------------


def make_tag_attributes(tags: Iterable[str]) -> dict[str, Any]:
    """Attributes that tag a span.

    Raises:
        ValueError: `tags` is a string, or holds something else than strings.
    """
    if isinstance(tags, str):
        raise ValueError(f"`tags` is the string {tags!r}; give a list of strings")
    found = list(tags)
    _all_strings("tags", found)
    return {f"{_TAG}.{index}": tag for index, tag in enumerate(found)}


def extract_tags_from_attributes(attributes: Mapping[str, Any]) -> list[str]:
    """The tags of a span, in order; empty if it has none.

    Raises:
        ValueError: a tag is not a string.
    """
    found = _numbered(attributes, _TAG)
    _all_strings(_TAG, found)
    return found


def make_link_attributes(links: Mapping[str, str]) -> dict[str, Any]:
    """Attributes that link a span to the spans whose attribute `key` has the value `links[key]`, for every key.

    A `key` may be `trace_id` or `span_id`, which are no attributes. See `query_linked_spans`.

    Raises:
        ValueError: a value is not a string.
    """
    _all_strings("links", list(links.values()))
    found: dict[str, Any] = {}
    for index, (key, value) in enumerate(links.items()):
        found[f"{_LINK}.{index}.{LinkAttributes.KEY_MATCH.value}"] = key
        found[f"{_LINK}.{index}.{LinkAttributes.VALUE_MATCH.value}"] = value
    return found


def extract_links_from_attributes(attributes: Mapping[str, Any]) -> list[LinkPydanticModel]:
    """The links of a span, in order; empty if it has none.

    Raises:
        ValueError: a link lacks its key or its value.
    """
    try:
        return [LinkPydanticModel.model_validate(link) for link in _numbered(attributes, _LINK)]
    except ValidationError as error:
        raise ValueError(f"the attributes `{_LINK}.*` are no links: {error.errors()[0]['msg']}") from error


def query_linked_spans(spans: Sequence[S], links: Sequence[LinkPydanticModel]) -> list[S]:
    """Those of `spans` (ours or OpenTelemetry's) that match every one of `links`, in the given order."""
    return [span for span in spans if all(_linked(span, link) for link in links)]


def _linked(span: Any, link: LinkPydanticModel) -> bool:
    if link.key_match in ("trace_id", "span_id"):
        return _id(span, link.key_match) == link.value_match
    found = (span.attributes or {}).get(link.key_match)
    return found is not None and str(found) == link.value_match


def _id(span: Any, name: str) -> str | None:
    if hasattr(span, name):
        return getattr(span, name)
    number = getattr(span.context, name)  # OpenTelemetry's ids are integers
    return f"{number:032x}" if name == "trace_id" else f"{number:016x}"


def _numbered(attributes: Mapping[str, Any], prefix: str) -> list[Any]:
    found = filter_and_unflatten_attributes(attributes, prefix)
    if isinstance(found, dict) and found:
        raise ValueError(f"the attributes `{prefix}.*` must be numbered 0, 1, 2, ..., not {sorted(found)}")
    return list(found)


def _all_strings(name: str, values: Sequence[Any]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"`{name}` must hold strings, not {type(value).__name__} ({value!r:.100})")


# -- what a span can hold -------------------------------------------------------------------------------------------


def sanitize_attribute_value(object: Any, force: bool = True) -> AttributeValue:
    """`object` as a span can hold it: scalars and lists of one scalar type stay, the rest becomes JSON.

    Args:
        object: Any value.
        force: Whether what JSON can't hold becomes its `str`.

    Raises:
        ValueError: JSON can't hold it, and `force` is off.
    """
    if isinstance(object, _SCALARS):
        return object
    if isinstance(object, list):
        try:
            return sanitize_list_attribute_sanity(cast("list[Any]", object))
        except ValueError:
            logger.debug("a list of several types is written as JSON")
    to_text: Callable[[Any], str] | None = str if force else None
    try:
        return json.dumps(object, default=to_text, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        if force:
            return str(object)
        raise ValueError(f"JSON can't hold a {type(object).__name__} ({object!r:.100}): {error}") from error


def sanitize_attributes(attributes: Mapping[str, Any], force: bool = True) -> Attributes:
    """Each value by `sanitize_attribute_value`. Raises as it does, naming the key."""
    found: Attributes = {}
    for key, value in attributes.items():
        try:
            found[key] = sanitize_attribute_value(value, force)
        except ValueError as error:
            raise ValueError(f"attribute `{key}`: {error}") from error
    return found


def sanitize_list_attribute_sanity(maybe_list: Sequence[Any]) -> list[Any]:
    """The list with its numbers made one type: `[1, 2.0]` is `[1.0, 2.0]`, `[True, 1]` is `[1, 1]`.

    Raises:
        ValueError: it holds something else than scalars, or strings and numbers.
    """
    items = list(maybe_list)
    kinds = {type(item) for item in items}
    if len(kinds) <= 1 and all(isinstance(item, _SCALARS) for item in items):
        return items
    if all(isinstance(item, (bool, int, float)) for item in items):
        number: Callable[[Any], Any] = float if float in kinds else int
        return [number(item) for item in items]
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ValueError(f"a list attribute holds values of one type: strings, booleans or numbers, not {names}")


def check_attributes_sanity(attributes: Mapping[Any, Any]) -> None:
    """Nothing, if a span can hold `attributes` as they are.

    Raises:
        ValueError: a key is not a string, or a value neither a scalar nor a list of one scalar type.
    """
    for key, value in attributes.items():
        if not isinstance(key, str):
            raise ValueError(f"attribute keys must be strings, not {type(key).__name__} ({key!r})")
        if isinstance(value, list):
            try:
                sanitize_list_attribute_sanity(cast("list[Any]", value))
            except ValueError as error:
                raise ValueError(f"attribute `{key}`: {error}") from error
        elif not isinstance(value, _SCALARS):
            raise ValueError(
                f"attribute `{key}` is a {type(value).__name__}; `flatten_attributes` and `sanitize_attributes` turn "
                "nested and other values into what a span can hold"
            )


# -- the rest -------------------------------------------------------------------------------------------------------


def format_exception_attributes(exception: BaseException) -> dict[str, str]:
    """Type, message and traceback of an exception under OpenTelemetry's names."""
    return {
        EXCEPTION_TYPE: type(exception).__name__,
        EXCEPTION_MESSAGE: str(exception),
        EXCEPTION_STACKTRACE: "".join(traceback.format_exception(exception)),
    }


def full_qualified_name(obj: Any) -> str:
    """Module and name of a class or function; built-in ones without module."""
    name: str = obj.__qualname__
    return name if obj.__module__ == "builtins" else f"{obj.__module__}.{name}"


def get_tracer_provider(inspect: bool = True) -> TracerProvider:
    """OpenTelemetry's global provider. `OtelTracer` sets one with its first attempt, if the program has none.

    Args:
        inspect: Whether to log which span processors it has.

    Raises:
        RuntimeError: there is none so far.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        raise RuntimeError("OpenTelemetry has no provider yet: run this within an attempt, or set a provider first")
    if inspect:
        logger.debug("the OpenTelemetry provider is %r", provider)
    return provider


def get_tracer(use_active_span_processor: bool = True) -> Tracer:
    """A tracer of OpenTelemetry's global provider.

    Args:
        use_active_span_processor: Whether its spans reach the provider's span processors, and so the store.

    Raises:
        RuntimeError: there is no provider so far.
    """
    provider = get_tracer_provider(inspect=False)
    if use_active_span_processor:
        return provider.get_tracer("agentlightning")
    from opentelemetry.sdk.trace import TracerProvider

    return TracerProvider(resource=provider.resource, shutdown_on_exit=False).get_tracer("agentlightning")
