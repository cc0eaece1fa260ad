"""What the log says, for programs: fields beside the text, and lines of JSON."""

from __future__ import annotations

import datetime
import json
import logging
import math
import sys
from typing import Any, Final, Literal

__all__ = ["JsonLines", "log_to_stderr"]

_ABOUT_A_ROOM: Final = "room %s"
"""What the text of a record begins with that is about a room; its first argument is the room's key."""
_TEXT: Final = "%(asctime)s %(levelname)s %(message)s"
_OF_ALL_RECORDS: Final = frozenset(
    [*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"]
)
"""Attributes that records have in any case; whatever else one has, its fields are."""


class _Room(logging.Filter):
    """Gives each record that is about a room a field with its key, whoever handles it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let it pass."""
        arguments, text = record.args, record.msg
        if (
            isinstance(text, str)
            and text.startswith(_ABOUT_A_ROOM)
            and isinstance(arguments, tuple)
            and arguments
            and "/" in str(arguments[0])  # Else it is the name of all rooms of a kind.
            and not hasattr(record, "key")
        ):
            record.key = arguments[0]
        return True


logging.getLogger("trio_rooms").addFilter(_Room())


class JsonLines(logging.Formatter):
    """One object of JSON for each record, in a line of its own.

    It has ``time`` (RFC 3339, in UTC), ``level``, ``logger``, ``message``, the fields of the record, such as
    ``key``, and ``exception`` where there was one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, without its end."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        said: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _OF_ALL_RECORDS:
                said.setdefault(name, _plain(value))
        if record.exc_info and record.exc_info[0] is not None:
            said["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            said["stack"] = record.stack_info
        # In ASCII: whatever the standard error takes, it is not cut or changed on its way.
        return json.dumps(said)


def _plain(value: Any) -> Any:
    """A field as JSON has it: what it has no form for becomes text."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 (whatever it raises, the record is told)
        return f"<{type(value).__name__} that raises {type(error).__name__}>"


def log_to_stderr(log_format: Literal["text", "json"] = "text") -> None:
    """Log from INFO on, unless the program has configured logging.

    Args:
        log_format: lines for people, or `JsonLines`, of Python's warnings, too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if log_format == "json":
        logging.captureWarnings(True)  # Else Python writes them between the lines.
