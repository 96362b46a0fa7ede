"""Template text of each engine: rendered, its named places, its literal parts.

`PromptTemplate` renders and checks with it; `algorithm.apo.guard` judges candidates by it. Works on plain strings and
imports nothing of the package. Jinja and POML are imported when a template of theirs is met.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

Engine = Literal["f-string", "jinja", "poml"]

BRACED = re.compile(r"\{([A-Za-z_]\w*)\}")
"""A plain `{name}`, wherever it stands: places of a text that `str.format` can't read, as next to JSON."""
_EXPRESSION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_ATTRIBUTE = re.compile(r"\s(?P<kind>if|for)\s*=\s*(?P<quote>[\"'])(?P<code>.*?)(?P=quote)", re.DOTALL)
_DECLARED = re.compile(r"<let\b[^>]*?\bname\s*=\s*[\"'](\w+)[\"']")
_TAG = re.compile(r"<(/?)([A-Za-z][\w.:-]*)(?:\"[^\"]*\"|'[^']*'|[^<>\"'])*?(/?)>")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LOOP = re.compile(r"\s*(\w+)\s+in\s+(.*)", re.DOTALL)
# A name that isn't behind a dot: of `task.title` only `task`. What is in quotes is taken out before.
_NAME = re.compile(r"(?<![\w.$])[A-Za-z_$][\w$]*")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`")
_SCRIPT_WORDS = frozenset(
    {"true", "false", "null", "undefined", "typeof", "in", "of", "new", "loop", "JSON", "Math", "Object", "Array"}
    | {"String", "Number", "Boolean", "Date", "parseInt", "parseFloat", "NaN", "Infinity", "instanceof"}
)


def render(template: str, engine: Engine, values: Mapping[str, Any]) -> str:
    """`template` with `values` filled in.

    Raises:
        KeyError: it names a place that `values` lacks.
        ValueError: it can't be rendered.
        ImportError: the engine is `poml` and the package isn't installed.
    """
    if engine == "f-string":
        return template.format(**values)
    if engine == "jinja":
        return _render_jinja(template, values)
    return _render_poml(template, values)


def placeholders(template: str, engine: Engine) -> set[str]:
    """Names that `render` fills in; of an f-string with what is behind them, as `task.title` or `task[title]`.

    Raises:
        ValueError: an f-string or Jinja template that can't be parsed.
    """
    if engine == "f-string":
        return {name for _, name, _ in fields(template) if name is not None}
    if engine == "jinja":
        return _jinja_names(template)
    return _poml_names(template)


def literals(template: str, engine: Engine) -> list[str]:
    """The parts that stay as they are when `template` is rendered, in order, without those of white space alone.

    Raises:
        ValueError: an f-string or Jinja template that can't be parsed.
    """
    if engine == "f-string":
        parts = _joined((text, name is not None) for text, name, _ in fields(template, nested=False))
    elif engine == "jinja":
        parts = [text for _, kind, text in _jinja_tokens(template) if kind == "data"]
    else:
        parts = re.split(r"\{\{.*?\}\}|<[^>]*>", template, flags=re.DOTALL)
        parts = [part.strip() for part in parts]
    return [part for part in parts if part.strip()]


def fields(template: str, *, nested: bool = True) -> Iterator[tuple[str, str | None, str]]:
    """The literal text, the name and the format of each place of an f-string; the last name may be `None`.

    Raises:
        ValueError: `str.format` can't parse it.
    """
    for text, name, form, _ in Formatter().parse(template):
        yield text, name, form or ""
        if nested and form:
            yield from fields(form)


def _joined(parts: Iterator[tuple[str, bool]]) -> list[str]:
    """Texts with nothing filled in between as one: the parser ends a text at each doubled brace."""
    found = [""]
    for text, ends in parts:
        found[-1] += text
        if ends:
            found.append("")
    return found


def _jinja() -> SandboxedEnvironment:
    from jinja2 import DictLoader, StrictUndefined  # costs 30 ms to import
    from jinja2.sandbox import SandboxedEnvironment

    # There is no other template to include: with a loader that says so the error is one of the template.
    return SandboxedEnvironment(undefined=StrictUndefined, loader=DictLoader({}))


def _render_jinja(template: str, values: Mapping[str, Any]) -> str:
    from jinja2 import UndefinedError

    try:
        return _jinja().from_string(template).render(values)
    except UndefinedError as error:
        raise KeyError(str(error)) from error


def _jinja_names(template: str) -> set[str]:
    from jinja2 import TemplateSyntaxError, meta

    environment = _jinja()
    try:
        return meta.find_undeclared_variables(environment.parse(template)) - set(environment.globals)
    except TemplateSyntaxError as error:
        raise ValueError(str(error)) from error


def _jinja_tokens(template: str) -> list[tuple[int, str, str]]:
    from jinja2 import TemplateSyntaxError

    try:
        return list(_jinja().lex(template))
    except TemplateSyntaxError as error:
        raise ValueError(str(error)) from error


def _poml_names(template: str) -> set[str]:
    """What expressions, conditions and loops read, without what loops and `<let>` name themselves."""
    code = _EXPRESSION.findall(template)
    own = set(_DECLARED.findall(template))
    for found in _ATTRIBUTE.finditer(template):
        loop = _LOOP.fullmatch(found["code"]) if found["kind"] == "for" else None
        if loop:
            own.add(loop[1])
        code.append(loop[2] if loop else found["code"])
    names = {name for text in code for name in _NAME.findall(_QUOTED.sub("", text))}
    return names - own - _SCRIPT_WORDS


def _render_poml(template: str, values: Mapping[str, Any]) -> str:
    """All that POML makes of it as one text, without its roles. Each call starts a Node.js program: about a second."""
    try:
        poml = importlib.import_module("poml").poml
    except ModuleNotFoundError as error:
        if error.name != "poml":
            raise
        raise ImportError(
            "`engine` 'poml' needs the `poml` package: `pip install agentlightning[poml]`", name="poml"
        ) from error
    try:
        made: Any = poml(template, context=dict(values), chat=False)
    except RuntimeError as error:  # its message only points at what Node.js wrote
        if missing := sorted(_poml_names(template) - values.keys()):
            raise KeyError(missing[0]) from error
        raise ValueError("`template` is no POML that can be rendered; what is wrong is on standard error") from error
    parts: list[Any] = [made] if isinstance(made, str) else made
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("`template` makes parts that are no text, such as images; `format` returns text")
    return "".join(parts)


def unclosed(template: str) -> str | None:
    """What is wrong with the tags of a POML template, seen without rendering it."""
    open_tags: list[str] = []
    for closing, name, self_closing in _TAG.findall(_COMMENT.sub("", template)):
        if closing and (not open_tags or open_tags.pop() != name):
            return f"</{name}> closes nothing that is open"
        if not closing and not self_closing:
            open_tags.append(name)
    return f"<{open_tags[-1]}> is not closed" if open_tags else None
