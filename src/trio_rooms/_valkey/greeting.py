"""How a connection begins: who we are, and who answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import hiredis
import trio

from trio_rooms.errors import EngineError, EngineLost

from .address import Address, Node, name
from .protocol import AWAY, MORE, Argument, ServerError, pack

__all__ = ["greet"]

_RECEIVE: Final = 4096
"""Bytes read at once."""
_MOST_GREETING: Final = 2**16
"""Bytes of what a server says of itself."""


async def greet(
    stream: trio.abc.Stream,
    reader: hiredis.Reader,
    address: Address,
    node: Node,
    client: str,
    *,
    sentinel: bool,
) -> Mapping[bytes, Any]:
    """Say who we are, and hear who answers; for `Connection.open`, which says what is raised."""
    where = f"what answers at {name(node)}"
    user, password = (
        (address.sentinel_user, address.sentinel_password) if sentinel else (address.user, address.password)
    )
    allowed = ("AUTH", user or "default", password) if password else ()
    greeting = await _ask(stream, reader, "HELLO", 3, *allowed, "SETNAME", client)
    if isinstance(greeting, ServerError):
        raise _refused(greeting, name(node))
    if not isinstance(greeting, dict):
        raise EngineError(f"{where} is no engine: it does not speak RESP3")
    mode, role = (_text(greeting.get(one, b"")) for one in (b"mode", b"role"))
    if sentinel:
        if mode != "sentinel":
            raise EngineError(f"{where} is no Sentinel; a server itself is reached by valkey://HOST:PORT")
        return greeting
    if mode == "sentinel":
        raise EngineError(f"{where} is a Sentinel, which is asked by valkey+sentinel://HOST:PORT/NAME")
    if mode != "standalone":
        raise EngineError(f"{where} is a node of a {mode}; an engine is one server, or one with replicas")
    if role != "master":
        raise EngineLost(f"{where} is a {role}, which cannot be written")
    # Under pressure the server drops connections, and this one last; whoever may not say so goes without.
    await _ask(stream, reader, "CLIENT", "NO-EVICT", "on")
    if address.database:
        answer = await _ask(stream, reader, "SELECT", address.database)
        if isinstance(answer, ServerError):
            raise _refused(answer, name(node))
    return greeting


async def _ask(stream: trio.abc.Stream, reader: hiredis.Reader, *command: Argument) -> Any:
    await stream.send_all(pack(command))
    while (reply := reader.gets()) is MORE:
        received = await stream.receive_some(_RECEIVE)
        if not received:
            raise trio.BrokenResourceError("it closed the connection")
        reader.feed(received)  # type: ignore[arg-type] # (it takes a bytearray, too)
        if reader.len() > _MOST_GREETING:
            raise hiredis.ProtocolError("it talks too much")
    return reply


def _refused(error: ServerError, where: str) -> EngineError:
    """What a refused greeting means."""
    if error.code in AWAY:
        return EngineLost(f"the engine at {where} is not to be used now: {error}")
    match error.code:
        case "NOAUTH":
            return EngineError(
                f"the engine at {where} wants a password: valkey://USER:PASSWORD@HOST, or :PASSWORD@HOST"
            )
        case "WRONGPASS":
            return EngineError(f"the engine at {where} does not know this user with this password")
        case _ if "unknown command" in error.text.lower() or error.code == "NOPROTO":
            return EngineError(f"the engine at {where} has to be Valkey 8, or Redis 7.0, or later: {error}")
        case _:
            return EngineError(f"the engine at {where} refuses the connection: {error}")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
