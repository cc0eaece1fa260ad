"""The state of a client, and who wants to know when it changes."""

from __future__ import annotations

import enum

import trio

__all__ = ["State", "StateChanges", "Watched"]


class State(enum.StrEnum):
    """Where a client is. It compares equal to its name: ``room.state == "open"``."""

    CONNECTING = "connecting"
    """Before the first welcome: inside of ``connect_room``, so no program sees it for long."""
    OPEN = "open"
    """A server answers."""
    RECONNECTING = "reconnecting"
    """The connection was lost. What is sent waits."""
    CLOSED = "closed"
    """The end: of the block, or because the server will not have the client any more."""


class Watched:
    """A state that many may watch."""

    def __init__(self) -> None:
        self.now: State = State.CONNECTING
        self._changed = trio.Event()

    def become(self, state: State) -> None:
        """Change it, and wake who watches. From `State.CLOSED` there is no way back."""
        if state is not self.now and self.now is not State.CLOSED:
            self.now = state
            self._changed.set()
            self._changed = trio.Event()

    async def after(self, told: State | None) -> State:
        """The state, as soon as it is another than the one that was told last."""
        await trio.lowlevel.checkpoint()
        while told is self.now:
            await self._changed.wait()
        return self.now


class StateChanges:
    """The state of a client, and each that follows; made by `RemoteRoom.states`.

    ``async for state in room.states()`` ends after `State.CLOSED`. Who is slow misses those that were
    over before it looked again.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._told: State | None = None

    def __aiter__(self) -> StateChanges:
        return self

    async def __anext__(self) -> State:
        if self._told is State.CLOSED:
            await trio.lowlevel.checkpoint()
            raise StopAsyncIteration
        self._told = await self._watched.after(self._told)
        return self._told
