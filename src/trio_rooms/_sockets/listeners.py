"""Sockets that listen: one for each address that a host stands for."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from typing import Any, Final

import trio

from trio_rooms.errors import CannotListen

__all__ = ["open_listeners"]

logger = logging.getLogger("trio_rooms")

_BACKLOG: Final = 4096
"""Connections that the kernel keeps until they are accepted; it takes at most its own maximum."""
_NOT_HERE: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""What binding an address says that this machine does not have."""


async def open_listeners(host: str | None, port: int) -> list[socket.socket]:
    """Listen on every address of a host that this machine has; a cancel leaves nothing open.

    A name may stand for addresses that are not there: ``localhost`` is ::1 too, also where the
    kernel has no IPv6. An address that is there and cannot be taken is an error all the same: whoever
    comes to it would find somebody else.

    Args:
        host: a name or an address; None for all addresses of this machine.
        port: the port; 0 for a free one, which may be another one for each address.

    Raises:
        CannotListen: it has none of them, or one cannot be taken; nothing listens.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with contextlib.ExitStack() as opened:
            missing: dict[str, OSError] = {}
            listeners = []
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
                try:
                    listeners.append(opened.enter_context(_listen(family, address)))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing[str(address[0])] = error
            if not listeners:
                raise next(iter(missing.values()))
            opened.pop_all()
    except OSError as error:
        raise CannotListen(error.errno, _why_not(error, host, port)) from error
    if missing:
        logger.info("of %s this machine does not have %s", host, ", ".join(missing))
    return listeners


def _listen(family: int, address: tuple[Any, ...]) -> socket.socket:
    """A socket that listens on one address."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A server that starts again takes its port over from connections that are still ending.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _why_not(error: OSError, host: str | None, port: int) -> str:
    """What to do about an address that cannot be listened on."""
    where = "all addresses" if host is None else host
    if isinstance(error, socket.gaierror):
        why = f"there is no address of that name ({error.strerror})"
        return f"cannot listen on {where}: {why}; give another host"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"port {port} of {where} is in use by another program; stop that one, or give another port "
                "(0 takes a free one)"
            )
        case errno.EACCES | errno.EPERM:
            return (
                f"this user may not listen on port {port}: the ports below 1024 need a privilege; "
                "give a port from 1024 on"
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"this machine has no address {where}; give another host, such as 127.0.0.1 or 0.0.0.0"
    return f"cannot listen on port {port} of {where}: {error.strerror or error}"
