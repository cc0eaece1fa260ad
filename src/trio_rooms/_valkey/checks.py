"""Whether a server keeps what it is told."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from trio_rooms.errors import EngineError

from .address import name
from .connection import Connection
from .protocol import ServerError

__all__ = ["Durability", "check"]

Durability = Literal["always", "everysec"]
"""What outlives a power failure of the server: all that it has answered, or all but the last second."""

_OLDEST: Final = (7, 0)
"""The first with functions that nodes can rely on."""


async def check(connection: Connection, durability: Durability | None) -> None:
    """See that a server is what it has to be.

    Args:
        connection: a connection to it.
        durability: what it has to keep; None where nothing is kept in it.

    Raises:
        EngineError: it is not; the message says what to change.
        EngineLost: the connection is lost.
    """
    who = f"the engine at {name(connection.node)}"
    version = connection.greeting.get(b"version", b"")
    text = version.decode(errors="replace") if isinstance(version, bytes) else ""
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        raise EngineError(f"{who} has to be Valkey 8, or Redis 7.0, or later, and is {text or 'unknown'}")
    if durability is None:
        return
    try:
        settings = await _settings(connection)
    except ServerError as error:
        raise EngineError(
            f"{who} does not say how it keeps what it is told ({error.code}): let its user call "
            "CONFIG GET, as with ACL SETUSER NAME +config|get"
        ) from error
    wanted = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    if durability == "always":
        wanted["appendfsync"] = "always"
    for option, value in wanted.items():
        is_ = settings.get(option, "unknown")
        how = f"set {option} {value} (valkey-server --{option} {value}, or CONFIG SET while it runs)"
        if option == "appendfsync" and is_ != value:
            raise EngineError(
                f"{who} has appendfsync {is_}, and what it has answered may be lost in a power failure: "
                f"{how}, or say that the last second may be (--engine-durability everysec, or durability=)"
            )
        if is_ != value:
            raise EngineError(f"{who} has {option} {is_}, and would forget rooms: {how}")
    if durability == "everysec" and settings.get("appendfsync") == "no":
        raise EngineError(f"{who} has appendfsync no, and would forget rooms: set appendfsync everysec")


async def _settings(connection: Connection) -> dict[str, str]:
    found: dict[str, str] = {}
    for option in ("appendonly", "appendfsync", "maxmemory-policy"):
        answer: Any = await connection.call("CONFIG", "GET", option)
        if isinstance(answer, dict):
            found |= {_text(key): _text(value) for key, value in answer.items()}
    return found


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
