"""What the log says for programs."""

from __future__ import annotations

import ast
import json
import logging
import re
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from trio_rooms._loop.logs import JsonLines, log_to_stderr

ROOT: Final = Path(__file__).parents[2]


class Broken:
    """It has no text."""

    def __str__(self) -> str:
        raise ValueError


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """A record as a line of JSON, read again."""
    line = JsonLines().format(record)
    assert "\n" not in line
    assert line.isascii()
    return dict(json.loads(line))


def logged(caplog: pytest.LogCaptureFixture, text: str, *arguments: object, **more: Any) -> dict[str, Any]:
    """What becomes of one record of the library."""
    logging.getLogger("trio_rooms").warning(text, *arguments, **more)
    return line_of(caplog.records[-1])


def test_a_record_is_an_object_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """With the time as RFC 3339 has it, and whatever else the record has."""
    said = logged(
        caplog,
        "it took %d\nlines",
        2,
        extra={"duration": 0.5, "never": float("inf"), "what": b"x", "no": Broken()},
    )
    when = datetime.fromisoformat(said.pop("time"))
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=1)
    assert when.utcoffset() == timedelta(0)
    assert said == {
        "level": "WARNING",
        "logger": "trio_rooms",
        "message": "it took 2\nlines",
        "duration": 0.5,
        "never": "inf",
        "what": "b'x'",
        "no": "<Broken that raises ValueError>",
    }


def test_what_is_about_a_room_has_its_key(caplog: pytest.LogCaptureFixture) -> None:
    """As a field, whatever the key is."""
    key = 'chat/"\n{}\u2028\ud800'
    assert logged(caplog, "room %s: it crashed", key)["key"] == key
    assert logged(caplog, "room %s wakes", key, extra={"key": "another"})["key"] == "another"
    assert "key" not in logged(caplog, "stopped")
    assert "key" not in logged(caplog, "room %s is at %s", "chat", "ws://...")


def test_an_exception_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """In a field of its own."""
    with pytest.raises(ValueError) as raised:
        json.loads("[")
    said = logged(caplog, "room %s:\nit raised", "a/b", exc_info=raised.value)
    assert said["exception"].startswith("Traceback")
    assert "JSONDecodeError: Expecting value" in said["exception"].splitlines()[-1]
    assert said["key"] == "a/b"
    assert "exception" not in logged(caplog, "nothing", exc_info=False)


def test_a_program_logs_as_it_wants(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From INFO on, to the standard error, once, however often it is asked for; also Python's warnings."""
    with monkeypatch.context() as program, warnings.catch_warnings():
        program.setattr(logging, "root", logging.RootLogger(logging.WARNING))
        program.setattr(logging.getLogger("trio_rooms"), "parent", logging.root)
        program.setattr(logging.getLogger("py.warnings"), "parent", logging.root)
        warnings.simplefilter("always")
        log_to_stderr("json")
        log_to_stderr()
        logger = logging.getLogger("trio_rooms")
        logger.debug("hidden")
        logger.info("room %s: shown", "a/b")
        warnings.warn("careful", stacklevel=1)
        logging.captureWarnings(False)
    logging.root.setLevel(logging.root.level)  # Loggers remember what was let through.
    shown, careful = map(json.loads, capsys.readouterr().err.splitlines())
    assert (shown["message"], shown["level"]) == ("room a/b: shown", "INFO")
    assert "UserWarning: careful" in careful["message"]
    assert (careful["logger"], careful["level"]) == ("py.warnings", "WARNING")


def test_whatever_is_said_of_a_room_begins_with_it() -> None:
    """Else the field would be missing: the key is the first argument of a text that begins with "room %s"."""
    calls = [
        node
        for path in (ROOT / "src").rglob("*.py")
        if "import logging" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) in ("logger", "_log")
        and len(node.args) > 1
        and isinstance(node.args[0], ast.Constant)
    ]
    about = [[ast.unparse(one) for one in node.args] for node in calls]
    wrong = [
        text
        for text, *arguments in about
        if any(re.search(r"\bkey$|_key$", one) for one in arguments)
        and not (text[1:].startswith("room %s") and re.search(r"\bkey$|_key$", arguments[0]))
    ]
    assert len(about) > 40
    assert not wrong
