"""The kernel's view of many descriptors at once, as one descriptor that Trio can wait for.

`select.epoll` on Linux, `select.kqueue` on macOS and the BSDs, behind four methods. Both
are used level-triggered: what is left unread is reported again.
"""

from __future__ import annotations

import select
import sys
from typing import Final, Protocol

__all__ = ["MOST_EVENTS", "READ", "WRITE", "Poller", "new_poller"]

READ: Final = 1
WRITE: Final = 4
"""The numbers of EPOLLIN and EPOLLOUT, so that epoll's answers need no translation."""

MOST_EVENTS: Final = 256
"""Descriptors asked for in one system call; more are reported by the next one."""


class Poller(Protocol):
    """Watches descriptors for being readable or writable."""

    def fileno(self) -> int:
        """A descriptor that is readable when `poll` would return something."""

    def register(self, fd: int) -> None:
        """Begin to watch a descriptor for reading."""

    def modify(self, fd: int, interest: int) -> None:
        """Watch for `READ`, `WRITE`, both or neither from now on."""

    def unregister(self, fd: int) -> None:
        """Stop watching. To be called before the descriptor is closed: its number is used again."""

    def poll(self) -> list[tuple[int, int]]:
        """Descriptors that are ready now and what for; any bit but `WRITE` means that reading tells more."""

    def close(self) -> None:
        """Close the poller itself."""


if sys.platform == "linux":

    class _EpollPoller:
        def __init__(self) -> None:
            self._epoll = select.epoll()
            self.fileno = self._epoll.fileno
            self.modify = self._epoll.modify
            self.unregister = self._epoll.unregister
            self.close = self._epoll.close
            assert (READ, WRITE) == (select.EPOLLIN, select.EPOLLOUT)

        def register(self, fd: int) -> None:
            self._epoll.register(fd, READ)

        def poll(self) -> list[tuple[int, int]]:
            return self._epoll.poll(0, MOST_EVENTS)

    def new_poller() -> Poller:
        """The poller of this platform."""
        return _EpollPoller()

elif hasattr(select, "kqueue"):

    class _KqueuePoller:
        def __init__(self) -> None:
            self._kqueue = select.kqueue()
            self.fileno = self._kqueue.fileno
            self.close = self._kqueue.close

        def register(self, fd: int) -> None:
            self._change(fd, select.KQ_FILTER_READ, select.KQ_EV_ADD)
            self._change(fd, select.KQ_FILTER_WRITE, select.KQ_EV_ADD | select.KQ_EV_DISABLE)

        def modify(self, fd: int, interest: int) -> None:
            for filter_, bit in ((select.KQ_FILTER_READ, READ), (select.KQ_FILTER_WRITE, WRITE)):
                flag = select.KQ_EV_ENABLE if interest & bit else select.KQ_EV_DISABLE
                self._change(fd, filter_, flag)

        def unregister(self, fd: int) -> None:
            for filter_ in (select.KQ_FILTER_READ, select.KQ_FILTER_WRITE):
                self._change(fd, filter_, select.KQ_EV_DELETE)

        def poll(self) -> list[tuple[int, int]]:
            events = self._kqueue.control(None, MOST_EVENTS, 0)
            return [
                (event.ident, WRITE if event.filter == select.KQ_FILTER_WRITE else READ) for event in events
            ]

        def _change(self, fd: int, filter_: int, flag: int) -> None:
            self._kqueue.control([select.kevent(fd, filter_, flag)], 0, 0)

    def new_poller() -> Poller:
        """The poller of this platform."""
        return _KqueuePoller()

else:

    def new_poller() -> Poller:
        """The poller of this platform."""
        msg = f"trio_rooms needs epoll or kqueue, and {sys.platform} has neither"
        raise RuntimeError(msg)
