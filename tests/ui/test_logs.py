"""The page's log: one line an event, and no word about who asked or what a recording is called."""

from __future__ import annotations

import logging
import re
from typing import Any

from ser.ui.logs import OneLine

PATH = "/tmp/ser-uploads-12-x/0a1b/my voice, Tehran.wav"


def line(message: str, *values: Any, error: BaseException | None = None) -> str:
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("another.package", logging.WARNING, __file__, 1, message, values, exc_info)
    return OneLine().format(record)


def raised(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_an_event_is_one_line_of_pairs():
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} level=warning event=answered seconds=0\.125",
        line("event=answered seconds=%.3f", 0.125),
    )


def test_what_another_library_says_is_quoted_in_one_line():
    assert line('two\nlines and a "quote"').endswith(
        'event=message logger=another.package text="two\\nlines and a \\"quote\\""'
    )


def test_an_exception_is_one_line_with_its_kind_message_and_place():
    logged = line("event=failed", error=raised("broken\nin two"))
    assert "\n" not in logged
    assert 'event=failed error=ValueError message="broken\\nin two" at=test_logs.py:' in logged


def test_the_name_of_a_recording_is_cut_out_wherever_it_appears():
    error = raised(f"Error opening '{PATH}': unknown format")
    for logged in (line("event=x path=%r", PATH), line(f"cannot read {PATH}"), line("event=x", error=error)):
        assert "Tehran" not in logged
        assert "<recording>" in logged
    assert "unknown format" in line("event=x", error=error)
