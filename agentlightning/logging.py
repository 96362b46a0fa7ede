"""Logging for scripts and examples: `setup_logging` shows what this package says on the console and in files.

Called by users; the package itself only makes loggers below `agentlightning`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["configure_logger", "setup", "setup_logging", "setup_module", "setup_module_logging"]

FORMAT = "%(asctime)s [%(levelname)s] (%(process)d %(name)s) %(message)s"


def setup(
    level: int | str = "INFO",
    *,
    console: bool = True,
    color: bool = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
    capture_warnings: bool = False,
    submodule_levels: Mapping[str, int | str] | None = None,
    extra_handlers: Sequence[logging.Handler] | None = None,
    formatter: logging.Formatter | None = None,
    apply_to: Sequence[str] | None = None,
    files: str | Path | Mapping[str, str | Path] | None = None,
) -> logging.Logger:
    """Let this package log; what an earlier call set up is replaced.

    Args:
        level: Lowest level that is shown.
        console: Whether to write to standard error.
        color: Whether a terminal gets colours and columns (rich).
        propagate: Whether the root logger gets the records too.
        disable_existing_loggers: Whether all other loggers fall silent.
        capture_warnings: Whether Python's warnings are logged.
        submodule_levels: Logger name -> its own level.
        extra_handlers: More places to log to.
        formatter: For console and files.
        apply_to: Other loggers that get the same handlers and level.
        files: A file to write to as well, or logger name -> file.

    Returns:
        The logger `agentlightning`.
    """
    root = logging.getLogger("agentlightning")
    formatter = formatter or logging.Formatter(FORMAT, "%H:%M:%S")
    handlers = [*([_console(formatter, color)] if console else []), *(extra_handlers or ())]
    if isinstance(files, (str, Path)):
        handlers.append(_file(files, formatter))
    for name in ("agentlightning", *(apply_to or ())):
        _replace(logging.getLogger(name), handlers, level, propagate)
    if isinstance(files, Mapping):
        for name, path in files.items():
            logging.getLogger(name).addHandler(_file(path, formatter))
    for name, own in (submodule_levels or {}).items():
        logging.getLogger(name).setLevel(own)
    if disable_existing_loggers:
        _silence_others(("agentlightning", *(apply_to or ())))
    logging.captureWarnings(capture_warnings)
    return root


def setup_module(
    level: int | str = "INFO",
    *,
    name: str = "agentlightning",
    console: bool = True,
    color: bool = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
) -> logging.Logger:
    """Let one logger log to the console. Arguments as of `setup`; returns that logger."""
    found = logging.getLogger(name)
    handlers = [_console(logging.Formatter(FORMAT, "%H:%M:%S"), color)] if console else []
    _replace(found, handlers, level, propagate)
    if disable_existing_loggers:
        _silence_others((name,))
    return found


def configure_logger(level: int = logging.INFO, name: str = "agentlightning") -> logging.Logger:
    """Deprecated since 0.3: use `setup_logging`."""
    warnings.warn("`configure_logger` is deprecated; use `setup_logging`", DeprecationWarning, 2)
    return setup_module(level, name=name)


setup_logging = setup
setup_module_logging = setup_module


def _console(formatter: logging.Formatter, color: bool) -> logging.Handler:
    if color and sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        return RichHandler(console=Console(stderr=True), rich_tracebacks=True)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    return handler


def _file(path: str | Path, formatter: logging.Formatter) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(formatter)
    return handler


def _replace(found: logging.Logger, handlers: Sequence[logging.Handler], level: int | str, propagate: bool) -> None:
    for old in list(found.handlers):
        found.removeHandler(old)
        if old not in handlers:
            old.close()
    for handler in handlers:
        found.addHandler(handler)
    found.setLevel(level)
    found.propagate = propagate


def _silence_others(kept: Sequence[str]) -> None:
    for name, found in logging.root.manager.loggerDict.items():
        if isinstance(found, logging.Logger) and not any(name == k or name.startswith(f"{k}.") for k in kept):
            found.disabled = True
