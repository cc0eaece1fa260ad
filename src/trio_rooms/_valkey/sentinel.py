"""Asking Sentinels which server is to be written."""

from __future__ import annotations

from typing import Final

import trio

from trio_rooms.errors import EngineError, EngineLost

from .address import Address, Node, name
from .connection import Connection

__all__ = ["primary"]

_OPENING: Final = 1.0
"""Seconds for a connection; then the next Sentinel is asked."""


async def primary(address: Address, client: str) -> Node:
    """Where the primary is, says the first Sentinel that knows.

    Raises:
        EngineLost: none of them can be reached, or knows.
        EngineError: none of them lets us in, or is a Sentinel.
    """
    errors: list[EngineError] = []
    for node in address.nodes:
        try:
            return await _ask(address, node, client)
        except EngineError as error:
            errors.append(error)
    kind = EngineLost if any(isinstance(one, EngineLost) for one in errors) else EngineError
    raise kind("no Sentinel says where the engine is: " + "; ".join(str(one) for one in errors))


async def _ask(address: Address, node: Node, client: str) -> Node:
    connection = await Connection.open(address, node, client=client, timeout=_OPENING, sentinel=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        try:
            with trio.fail_after(_OPENING):
                found = await connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)
        except EngineError as error:
            found = error
        except trio.TooSlowError:
            found = EngineLost(f"the Sentinel at {name(node)} does not answer")
        nursery.cancel_scope.cancel()
    match found:
        case [bytes(host), bytes(port)] if port.isdigit():
            return host.decode(errors="replace"), int(port)
        case None:
            raise EngineLost(f"the Sentinel at {name(node)} knows no service {address.service!r:.100}")
        case EngineError():
            raise found
        case _:
            raise EngineError(f"the Sentinel at {name(node)} does not say where the engine is")
