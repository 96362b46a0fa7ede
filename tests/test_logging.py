"""`setup_logging`: what the package says, where it is wanted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentlightning.logging import configure_logger, setup_logging, setup_module_logging

OWN = ("agentlightning", "agentlightning.store", "mine", "other")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in OWN}
    yield
    for name, (handlers, level) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, True
        logger.setLevel(level)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False


def test_it_writes_to_the_console_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    setup_logging(
        "DEBUG", files=tmp_path / "run.log", apply_to=["mine"], submodule_levels={"agentlightning.store": "ERROR"}
    )
    logging.getLogger("agentlightning.runner").debug("a rollout")
    logging.getLogger("agentlightning.store").warning("not this")
    logging.getLogger("mine").info("mine too")
    for text in (capsys.readouterr().err, (tmp_path / "run.log").read_text()):
        assert "a rollout" in text
        assert "mine too" in text
        assert "not this" not in text


def test_calling_it_again_replaces(capsys: pytest.CaptureFixture[str]):
    setup_logging()
    setup_logging("WARNING")
    logging.getLogger("agentlightning").info("too low")
    logging.getLogger("agentlightning").warning("once")
    assert capsys.readouterr().err.count("once") == 1
    assert len(logging.getLogger("agentlightning").handlers) == 1


def test_others_can_be_silenced(capsys: pytest.CaptureFixture[str]):
    logging.getLogger("other").addHandler(logging.StreamHandler())
    setup_module_logging(name="mine", disable_existing_loggers=True)
    logging.getLogger("other").error("quiet")
    logging.getLogger("mine").info("loud")
    assert "loud" in (text := capsys.readouterr().err)
    assert "quiet" not in text


def test_the_old_name_works():
    with pytest.warns(DeprecationWarning, match="setup_logging"):
        assert configure_logger(logging.DEBUG, "mine").level == logging.DEBUG
