"""What the ways in ask of whoever traces, and that nobody does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from trio_rooms._sockets.roster import Link

__all__ = ["NO_TRACES", "Handshake", "Traces"]


class Handshake(Protocol):
    """A handshake that is under way."""

    def answered(self, status: int) -> None:
        """What the client is answered with."""

    def opened(self, link: Link) -> None:
        """It is let in; to be called in the step in which it is."""


class Traces(Protocol):
    """Whoever is told what happens, as parts of traces."""

    def handshake(self, headers: Mapping[str, str], key: str) -> AbstractContextManager[Handshake]:
        """A block in which a client is let into a room, or not; given the headers of its request."""

    def outside(self) -> AbstractContextManager[None]:
        """A block, and the tasks that begin in it, which are of no trace of the program's."""


class _Nobody:
    """There are no traces."""

    def handshake(self, _headers: Mapping[str, str], _key: str) -> AbstractContextManager[Handshake]:
        """A block like any other."""
        return _UNTOLD

    def outside(self) -> AbstractContextManager[None]:
        """A block like any other."""
        return nullcontext()


class _Untold:
    """A handshake of which nobody is to hear."""

    def answered(self, status: int) -> None:
        """Nothing."""

    def opened(self, link: Link) -> None:
        """Nothing."""


_UNTOLD: Final[AbstractContextManager[Handshake]] = nullcontext(_Untold())
NO_TRACES: Final[Traces] = _Nobody()
