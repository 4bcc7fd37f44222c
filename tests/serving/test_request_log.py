"""Logs: JSON lines for programs, plain lines on a terminal."""

import json
import logging
import sys

import pytest

from mondrian.serving.http.request_log import (
    JsonLinesFormatter,
    TerminalFormatter,
    configure_logging,
)


def make_record(level: int, message: str, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("mondrian.http", level, "", 0, message, (), None)
    record.__dict__.update(fields)
    return record


def test_a_line_on_a_terminal_has_time_level_message_and_fields() -> None:
    line = TerminalFormatter().format(make_record(logging.INFO, "ready at http://127.0.0.1:5100"))
    assert line[8:] == " ready at http://127.0.0.1:5100"
    fields = {"method": "GET", "status": 404}
    line = TerminalFormatter().format(make_record(logging.WARNING, "slow", more=fields))
    assert line[8:] == " warning: slow method=GET status=404"


def test_both_formats_show_an_exception() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = make_record(logging.ERROR, "failed", exc_info=sys.exc_info())
    lines = TerminalFormatter().format(record).splitlines()
    assert lines[0][8:] == " error: failed"
    assert lines[-1] == "ValueError: broken"
    assert "ValueError: broken" in json.loads(JsonLinesFormatter().format(record))["exception"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_format_is_chosen_by_the_output(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[logging.Handler] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(logging, "basicConfig", lambda **given: chosen.extend(given["handlers"]))
    configure_logging()
    (handler,) = chosen
    expected = TerminalFormatter if is_terminal else JsonLinesFormatter
    assert isinstance(handler, logging.StreamHandler)
    assert isinstance(handler.formatter, expected)
