"""The pause of the garbage collector ends with its body, whatever happened in it."""

import gc

import pytest

from agentlightning.utils.collector import collector_paused


def test_nothing_is_collected_inside_and_collection_goes_on_after_it():
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_ends_the_pause_and_passes_on():
    with pytest.raises(ValueError, match="seven"), collector_paused():
        raise ValueError("seven")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_pause_within_a_pause_ends_with_the_outer_one():
    with collector_paused():
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
