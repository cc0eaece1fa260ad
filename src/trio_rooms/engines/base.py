"""What an engine is: the one thing that all nodes of a cluster share."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Self

import attrs
import trio

from trio_rooms.stores.base import Fence, Store

__all__ = ["Claim", "Engine", "Fence", "Renewal"]


@attrs.frozen
class Renewal:
    """What a node learns when it renews its lease."""

    alive: bool
    """Whether it has its lease still. If not, this incarnation is over for good."""
    members: Mapping[str, bytes]
    """The incarnations that live, this one too, with what each says about itself. Who was in it and is
    not any more is over for good."""


@attrs.frozen
class Claim:
    """Who owns a room."""

    owner: str
    """The incarnation; empty for nobody."""
    epoch: int
    """The fencing token of its claim: it grows with each claim of this room, and is never reset."""


class Engine(abc.ABC):
    """Keeps leases, owners and stores for all nodes, and carries messages between them.

    A node lives under an *incarnation*, ``"name#nonce"``, as long as it renews its lease. A lease that
    was not renewed in time is over for good as soon as anybody has noticed: from then on the incarnation
    is no member any more, and cannot become one again. While the engine itself was away, so that nobody
    could renew, leases begin anew once it is back, for as long as one lasts. Nothing is renewed for each
    room: what a node owns can be claimed by others as soon as that node is no member.

    Every method but `open`, `aclose` and `store` raises `EngineLost` where the engine cannot be reached, and
    whether it has happened is then not known; each may be called again. A cancellation does the same.
    """

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @abc.abstractmethod
    async def open(self) -> None:
        """Connect. Cancelled, it is not open.

        Raises:
            EngineError: it cannot be reached, or is not what it has to be; the message says what to do.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Let go of the connections. A second call does nothing."""

    @abc.abstractmethod
    async def join(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        """Become a member. Whoever was one under the same name is over for good.

        Args:
            incarnation: ``"name#nonce"``, never used before.
            about: what others are to know of this node.
            lease: seconds until it has to be renewed.
        """

    @abc.abstractmethod
    async def renew(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        """Begin the lease of a member anew, from when the engine does it; and see who else is one."""

    @abc.abstractmethod
    async def leave(self, incarnation: str) -> None:
        """Be no member any more."""

    @abc.abstractmethod
    async def claim(self, key: str, incarnation: str) -> Claim:
        """Become the owner of a room if nobody is, or whoever is is no member any more.

        Returns:
            Who owns it now. Who owns it already keeps its epoch.
        """

    @abc.abstractmethod
    async def find(self, keys: Collection[str]) -> dict[str, str]:
        """Who owns some rooms: the incarnations that are members, by key; nothing for the others."""

    @abc.abstractmethod
    async def release(self, key: str, incarnation: str, epoch: int) -> bool:
        """Let go of a room; False where the claim was not this one."""

    @abc.abstractmethod
    async def reclaim(self, incarnation: str, epochs: Mapping[str, int]) -> frozenset[str]:
        """Own again what a former incarnation of the same node did, each room with the epoch that it has.

        Args:
            incarnation: the one that has come after it.
            epochs: the epochs of its claims, by key; at most 1,000.

        Returns:
            Those that nobody has claimed meanwhile: nobody has written them either.
        """

    @abc.abstractmethod
    async def send(self, incarnation: str, message: bytes) -> None:
        """Hand a message to whoever listens as an incarnation; it may be lost, and comes at most once.

        What one node sends to another arrives in the order of the calls. At most 512 KiB.
        """

    @abc.abstractmethod
    async def listen(
        self,
        incarnation: str,
        receive: Callable[[bytes], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Hand on what is sent to an incarnation, until cancelled.

        ``task_status.started()`` is called when all that is sent from then on arrives.

        Raises:
            EngineLost: what is sent from now on may be lost; call it again.
        """

    @abc.abstractmethod
    async def note_user(self, user: str, incarnation: str, *, here: bool) -> None:
        """Say whether a user is connected to rooms of a node from now on."""

    @abc.abstractmethod
    async def nodes_of(self, user: str) -> tuple[str, ...]:
        """The members whose rooms a user is connected to."""

    @abc.abstractmethod
    def store(self, fence: Fence, *, durable: bool) -> Store:
        """The store that all nodes share, for one of them; opened and closed by whoever has it.

        Its commits are refused with StaleWrite where the room's epoch is not that of the fence. Opening it
        does not touch sessions. Those of a room whose connections were held by a former owner have none
        from when the room was claimed. Where nobody claims a room of a node that is over for good, they
        have none from some seconds after that, and the room is nobody's: `Store.due` finds their end.

        Args:
            fence: by which claims it writes.
            durable: whether what is committed has to outlive a power failure; checked when it is opened.
        """
