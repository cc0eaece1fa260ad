"""What the kernel knows of a TCP connection, and nobody else; Linux tells it."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from typing import Final

__all__ = ["has_vanished", "unacknowledged"]

_SIZE: Final = 60
"""Bytes of ``struct tcp_info`` up to the last field that is looked at."""
_SILENT: Final = 130_000
"""Milliseconds. Whether a client that did not read reads again, Linux asks every two minutes at least."""
_BACKED_OFF: Final = 60_000_000
"""Microseconds until the next try, which are about as many as there were since the first."""


def unacknowledged(fd: int) -> int:
    """Bytes that the kernel was given to send, and that the other side has not acknowledged."""
    if sys.platform != "linux":
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def has_vanished(fd: int) -> bool:
    """Whether there is something to send to the other side, and it has not even said that it is there.

    The kernel itself would go on trying for a quarter of an hour, during which keepalive rests.
    TCP_USER_TIMEOUT shortens that, but it takes a client for gone that is there and reads
    slowly: the time since its window was first full is not forgotten when it opens again.
    """
    if not unacknowledged(fd):
        return False
    # A bare descriptor has no getsockopt() in Python; a socket object borrows it for that.
    borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    try:
        return _is_silent(borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE))
    except OSError:
        return False  # No TCP connection, or what reading tells.
    finally:
        borrowed.detach()


def _is_silent(info: bytes) -> bool:
    """Whether ``struct tcp_info`` says that an answer is due, and that nothing was heard for too long."""
    probes = info[3]
    next_try = int.from_bytes(info[8:12], sys.byteorder)
    last_heard = int.from_bytes(info[56:60], sys.byteorder)
    # That it was not heard for long says nothing where nothing was sent before. Two questions
    # without an answer, or so long a wait for the next try, say that there was.
    return last_heard >= _SILENT and (probes >= 2 or next_try >= _BACKED_OFF)
