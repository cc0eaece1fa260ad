"""What a store is: the place where snapshots and the storage of rooms are kept."""

from __future__ import annotations

import abc
import builtins
import os
import random
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Final, Protocol, Self

import attrs

__all__ = [
    "Commit",
    "Due",
    "Entry",
    "Fence",
    "InboxSize",
    "LinkHalf",
    "Offer",
    "Opening",
    "Post",
    "RoomHalf",
    "RoomHead",
    "Store",
    "StoreStatistics",
    "StoredRoom",
    "StoredSession",
    "StoredSnapshot",
    "Timer",
    "Verdict",
    "Waiting",
    "draw_nonce",
]

# What is bytes here is opaque to a store. Times are seconds since 1970, and finite.

_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})

# Of its own, since programs seed that of the module, and a forked child has the state of its parent.
_random: Final = random.Random()  # noqa: S311 - nobody is kept from guessing it
os.register_at_fork(after_in_child=_random.seed)


def draw_nonce() -> int:
    """A number that no other commit has, and that leaves room for some that follow on it."""
    return _random.getrandbits(62) + 1


@attrs.frozen
class StoredSnapshot:
    """One generation of a room's snapshot, as the store has it."""

    generation: int
    """The number of the commit that wrote it."""
    document: bytes
    damage: str = ""
    """Why the store cannot read the document, which is empty then; empty for one that it can."""


@attrs.frozen
class RoomHead:
    """What a store has of one room, but for what may be large."""

    number: int = 0
    """That of the room's last commit; 0 for a room that never was."""
    nonce: int = 0
    """That of its last commit; 0 for a room that never was, or that was written before there were any."""
    epoch: int = 0
    """That of its last commit; 0 as for ``nonce``."""
    seq: int = 0
    """The highest that was given out to an entry of the journal."""
    before: int = 0
    """The highest of the block of seqs before that of ``seq``, see `Commit.before`."""
    floor: int = 0
    """The highest of those entries that went although somebody still wanted them."""
    entries: int = 0
    """How many entries its journal has."""
    entry_bytes: int = 0
    """Bytes of their bodies."""
    has_sessions: bool = False
    has_timers: bool = False
    lapses: float | None = None
    """When it is to be looked at whether the room may go, see `Commit.lapses`."""


@attrs.frozen
class StoredRoom:
    """What a store has of one room, as much of it as is loaded at each wake."""

    head: RoomHead
    snapshots: tuple[StoredSnapshot, ...]
    """Newest first, two at most."""


@attrs.frozen
class Entry:
    """One message of a room's journal: sent reliably, and kept until it is acknowledged."""

    seq: int
    """Its place; entries of one room ascend, with gaps."""
    audience: bytes
    """Whom it is for."""
    body: bytes
    """What was sent."""
    time: float


@attrs.frozen
class Opening:
    """What of a session never changes."""

    token: bytes
    """A digest of what its client resumes it with."""
    user: str | None
    """Who its client is."""
    start: int
    """The seq behind which the entries are that are for it."""
    window: float
    """Seconds that it outlives its connection."""


@attrs.frozen
class RoomHalf:
    """Of a session what its room writes."""

    last: int
    """The highest id of a message of its client that was handled; 0 for none. A lower one than is there
    leaves that: who has not read it may give 0."""
    attachment: bytes | None
    channels: bytes
    """The channels that it is in, and since when."""
    opening: Opening | None = None
    """With the first write of a session; None leaves it as it is."""


@attrs.frozen
class LinkHalf:
    """Of a session what whoever holds its connection writes."""

    link: int
    """The id of its connection; 0 while it has none."""
    until: float | None
    """When it expires, if it has no connection. None while it has one, or is over."""
    pos: int = 0
    """The first seq that it has not acknowledged, if it has no connection; 0 where nothing is kept for it."""
    left: bytes = b""
    """How its connection ended."""
    ended: bool = False
    """Whether it is over, and its room has not been told yet."""
    presence: bytes = b""
    """What the connection has set to be seen by the others."""


@attrs.frozen
class StoredSession:
    """One session, as the store has it."""

    sid: int
    room: RoomHalf
    """With its opening."""
    link: LinkHalf
    """Before the first was written ``LinkHalf(0, None)``: as if it had a connection."""


@attrs.frozen
class Verdict:
    """What a message with an id was answered."""

    sid: int
    id: int
    content: bytes


@attrs.frozen
class Timer:
    """Something that a room wants to be woken for."""

    due: float | None
    """When; None for one that is kept and never due."""
    content: bytes


@attrs.frozen
class Post:
    """A message for a user, to be kept in her inbox until somebody has it."""

    user: str
    id: int
    """From 1 to 2**63 - 1, drawn by who sends it. While she has one with this id, another is not stored."""
    body: bytes
    expires: float
    priority: int = 1
    """0 for low, 1 for normal, 2 for high."""
    room: str = ""
    """The key of the only room whose connections get it; empty for any."""


@attrs.frozen
class Offer:
    """That a message for a user is on its way to a session, until that acknowledges it or is over."""

    user: str
    key: str
    """The room of the session."""
    sid: int
    seq: int
    """Its place in the journal of that room."""


@attrs.frozen
class Waiting:
    """One message in an inbox, as the store has it."""

    position: int
    """Its place: those of one user ascend in the order in which they came, and none is given out twice."""
    post: Post
    offer: Offer | None = None
    """The last that was written, whether or not that session is still there."""


@attrs.frozen
class InboxSize:
    """How much is in an inbox."""

    count: int = 0
    bytes: int = 0
    """Of the bodies, and 50 for each message."""


@attrs.frozen
class Due:
    """What a store has that is due: the end of a session, a timer, or a look at a room."""

    time: float
    key: str
    sid: int | None = None
    """The session that expires, if it is one."""
    timer: str | None = None
    """The name of the timer, if it is one."""
    lapses: bool = False
    """Whether it is to be looked at whether the room may go, see `Commit.lapses`."""


@attrs.frozen
class Commit:
    """Everything that one room writes in one step: all of it becomes durable, or nothing.

    Args:
        key: the room, ``"name/id"``.
        number: counts the commits of the room, with or without a document: one more than the
            stored one, or the stored one again to repeat that commit; from 1 to 2**63 - 1.
        epoch: that of the store when whoever commits took the room; from 1 to 2**63 - 1.
        document: the snapshot, or None to leave the snapshots as they are.
        writes: values of the room's storage by name; None deletes the name.
        entries: what is added to the journal, ascending, above `RoomHead.seq` as it was.
        seq: the highest seq that was given out, that of the last entry or more; never less than it was. 0
            leaves `RoomHead.seq`, ``before`` and ``floor`` as they are, and goes with no entries.
        before: where seqs go on in a new block after an unclean end of a process, the highest of the
            block before.
        floor: see `RoomHead.floor`.
        trim: entries of the journal up to this seq go, those of this commit too.
        sessions: the room's halves of sessions by id; None deletes a session, both halves, and its verdicts.
            One without an opening whose session there is not is not written.
        links: the connection's halves of sessions by id. One whose session there is not, with this
            commit done, is not written.
        verdicts: what messages were answered; one that there is already is replaced. One whose session
            there is not, with this commit done, is not written.
        answered: by session, the highest id up to which its verdicts go, before new ones are added.
        timers: by name; None deletes one.
        destroy: remove all that the store has of the room but number, nonce and epoch. Nothing but sends
            may come with it.
        sends: messages for users, put into their inboxes in this order.
        offers: by the id of a message in an inbox, to which session it is on its way now. One of a message
            that is not in that inbox, with this commit done, is not written.
        lapses: when it is to be looked at whether the room may go; None leaves that as it is, 0 takes it
            away.
        nonce: tells this commit from every other that might have its number; from 1 to 2**63 - 1, and by
            itself another for each commit that is made.
    """

    key: str
    number: int
    epoch: int
    document: bytes | None = None
    writes: Mapping[str, bytes | None] = _NOTHING
    entries: tuple[Entry, ...] = ()
    seq: int = 0
    before: int = 0
    floor: int = 0
    trim: int = 0
    sessions: Mapping[int, RoomHalf | None] = _NOTHING
    links: Mapping[int, LinkHalf] = _NOTHING
    verdicts: tuple[Verdict, ...] = ()
    answered: Mapping[int, int] = _NOTHING
    timers: Mapping[str, Timer | None] = _NOTHING
    destroy: bool = False
    sends: tuple[Post, ...] = ()
    offers: Mapping[int, Offer] = _NOTHING
    lapses: float | None = None
    nonce: int = attrs.field(factory=draw_nonce, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Have mappings of its own: whoever made it may change theirs, and a store keep these."""
        if self.writes or self.sessions or self.links or self.answered or self.timers or self.offers:
            for name in _MAPPINGS:
                mapping = getattr(self, name)
                if mapping:
                    object.__setattr__(self, name, dict(mapping))


_MAPPINGS: Final = ("writes", "sessions", "links", "answered", "timers", "offers")


class Fence(Protocol):
    """Says by which claim a node writes a room, where several nodes share a store."""

    def epoch_of(self, key: str) -> int:
        """The epoch of this node's claim; 0 where it has none."""


@attrs.frozen
class StoreStatistics:
    """What a store has done since it was opened. Posts and settlements are counted as commits are."""

    commits: int
    """Commits that became durable, or were so already."""
    transactions: int
    """Transactions they were grouped into; each costs one sync to the disk."""
    failures: int
    """Commits that were refused or failed."""
    pending: int
    """Commits that wait to be written now."""


class Store(abc.ABC):
    """Keeps, for each room, two generations of its snapshot, its storage, journal, sessions and timers.

    And for each user an inbox: messages that nobody has acknowledged yet. They belong to no room, and stay
    when one is destroyed that has sent them, or whose connections are the only ones to get them.

    A store is an async context manager and serves one runtime at a time. Keys are
    ``"name/id"`` with any characters in the id, names in a room's storage any string; one with
    half a surrogate pair cannot be encoded and is a ValueError. Used while it is not open, a
    store raises StoreClosed; `statistics` may be asked for at any time. A store that was closed
    can be opened again.

    Every async method is a checkpoint, also where nothing has to be waited for; one that raises
    may not be. A cancelled read has read nothing. What a cancellation does to `open`, `aclose`,
    `commit`, `post` and `settle` is said there.

    Every store passes ``trio_rooms.testing.StoreConformance``.
    """

    @property
    @abc.abstractmethod
    def epoch(self) -> int:
        """How often this store had been opened for writing when it was opened here: 1, 2, 3, ...

        It says who may write: once somebody else has opened the store, commits of this epoch
        are stale.
        """

    def epoch_of(self, key: str) -> int:  # noqa: ARG002 (one that several nodes share has one for each room)
        """By which epoch a room is written from here: that of the store, unless each room has its own."""
        return self.epoch

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
        """Open the store. Cancelled, it is not open, and nothing is held.

        Sessions that have a connection lost it with the process that held it: each has none from now
        on, and expires when its window is over, counted from now. What it has acknowledged since is not
        known: its ``pos`` stays, or is that behind its start. The time is that of
        `trio_rooms._loop.wall.WallClock`.

        Raises:
            StoreInUse: another runtime has it.
            StoreReadOnly: it cannot be written.
            StoreError: it cannot be used for another reason.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Write what was handed over, then close, cancelled or not. A second call does nothing."""

    @abc.abstractmethod
    async def load(self, key: str, *, newest: bool = False) -> StoredRoom:
        """The number of a room's last commit, what else is in its head, and its snapshots.

        With ``newest`` the older snapshot is left out, which costs less: also where the newest is damaged.
        Who needs the other then loads again without it.

        One of them that cannot be read any more is given with its ``damage``, and does not keep the
        other from being read. A failure that may pass is a StoreError: else a room would go on from
        an older snapshot although the newest is there.

        The number outlives the room: once it was destroyed, or nothing is left of it (no snapshot, no
        storage, no journal, session or timer), number, nonce and epoch go on from where they were. They
        may be forgotten when the store is next opened for writing, since who knew them then has a former
        epoch, and once 10,000 rooms have ended after this one: else what is left of rooms that are no
        more would grow for ever.

        Raises:
            StoreError: it cannot be read; which room, and what of it, is in the message.
        """

    @abc.abstractmethod
    async def head(self, key: str) -> RoomHead:
        """The same as in `load`, without the snapshots.

        Raises:
            StoreError: as `load`.
        """

    @abc.abstractmethod
    async def commit(self, commit: Commit) -> None:
        """Make a commit durable.

        The commit is handed over before the first checkpoint: a cancelled caller stops
        waiting, and the commit is still carried out, whole. Commits of one room take
        effect in the order in which they were handed over.

        A commit that has number and nonce of the last one is a success that writes nothing: so one whose
        outcome is not known can be sent again.

        Raises:
            StaleWrite: its number is neither the next one nor, with its nonce, that of the last one,
                or its seqs do not go on from the stored one, or the store has been opened for writing
                since its epoch; nothing was written, nor will be.
            StoreFull, StoreReadOnly: nothing was written.
            StoreError: whether it was written is not known; the same commit may be sent again.
            ValueError, TypeError: no store can carry it out; nothing was handed over.
        """

    @abc.abstractmethod
    async def get(self, key: str, name: str) -> bytes | None:
        """One value of a room's storage, or None.

        Raises:
            StoreError: it is there and cannot be read; the message names it.
        """

    @abc.abstractmethod
    async def list(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> list[tuple[str, bytes]]:
        """Names and values of a room's storage whose names start with ``prefix``.

        They come in the order of the names' code points, those behind ``after`` only, at
        most ``limit`` of them.

        Raises:
            StoreError: one of them cannot be read; the message names it.
        """

    @abc.abstractmethod
    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """Keys of the rooms of which there is anything but a number, ordered and limited as in `list`."""

    @abc.abstractmethod
    async def session(self, key: str, sid: int) -> StoredSession | None:
        """One session of a room, or None."""

    @abc.abstractmethod
    async def sessions(
        self, key: str, *, after: int = 0, limit: int | None = None, ended: bool = False
    ) -> builtins.list[StoredSession]:
        """Sessions of a room by their ids, those above ``after``; with ``ended`` only those that are over."""

    @abc.abstractmethod
    async def positions(self, key: str) -> dict[int, int]:
        """By `LinkHalf.pos`, 0 apart, how many sessions without a connection that are not over have it."""

    @abc.abstractmethod
    async def verdicts(self, key: str, sid: int) -> dict[int, bytes]:
        """What the messages of a session were answered, by their ids, ascending."""

    @abc.abstractmethod
    async def journal(self, key: str, after: int, until: int, most_bytes: int) -> builtins.list[Entry]:
        """Entries with ``after < seq <= until``, ascending, until their bodies have ``most_bytes``.

        At least one, where there is any; 1,000 at most.
        """

    @abc.abstractmethod
    async def timers(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, Timer]]:
        """Timers of a room whose names start with ``prefix``, ordered and limited as in `list`."""

    @abc.abstractmethod
    async def due_timers(self, key: str, now: float, limit: int) -> builtins.list[tuple[str, Timer]]:
        """Timers of a room that are due at ``now`` or before, the longest first, at most ``limit``."""

    @abc.abstractmethod
    async def timer(self, key: str, name: str) -> Timer | None:
        """One timer of a room, or None."""

    @abc.abstractmethod
    async def due(self, now: float, limit: int, *, after: Due | None = None) -> builtins.list[Due]:
        """What is due at ``now`` or before, the longest first, at most ``limit``.

        Sessions without a connection that expire and are not over, timers, and rooms that lapse; found by
        index. With ``math.inf`` and 1 it tells what is due next.

        Args:
            now: when.
            limit: at most so many.
            after: only what comes behind this, to go through all a page at a time. Of what has the same
                time sessions come before timers, those before rooms, and within each the order is any,
                but fixed. It need not be due any more; where its room is gone, what has the same time may
                come again. One that is neither session, timer nor room comes behind all of its time.

        Raises:
            StoreError: it cannot be read.
        """

    @abc.abstractmethod
    async def post(self, posts: Sequence[Post]) -> dict[str, InboxSize]:
        """Put messages into inboxes, in this order: all of them, or none.

        As a commit they are handed over before the first checkpoint, and durable at the end; a cancelled
        caller only stops waiting. What is handed over for one user, in posts, commits and settlements,
        takes effect in that order.

        Returns:
            By user, how much is in her inbox now.

        Raises:
            StaleWrite, StoreFull, StoreReadOnly: nothing was written. The first, if the store has been
                opened for writing since it was opened here.
            StoreError: whether they were written is not known. The same ones may be sent again: what is
                there already is not stored twice.
            ValueError, TypeError: no store can keep one of them; nothing was handed over.
        """

    @abc.abstractmethod
    async def settle(self, user: str, ids: Collection[int]) -> None:
        """Remove messages from an inbox by their ids; those that are not there do not matter.

        It is handed over as a `post` is, and raises as that does.
        """

    @abc.abstractmethod
    async def inbox(self, user: str, *, after: int = 0, limit: int | None = None) -> builtins.list[Waiting]:
        """The messages in an inbox by their places, those above ``after``, at most ``limit``.

        Raises:
            StoreError: one of them cannot be read; the message names the user.
        """

    @abc.abstractmethod
    async def inbox_size(self, user: str) -> InboxSize:
        """How much is in an inbox; it is kept, not counted."""

    @abc.abstractmethod
    async def inboxes(
        self, *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, InboxSize]]:
        """The inboxes that have a message in them, with their users, ordered and limited as in `list`."""

    @abc.abstractmethod
    async def expired(
        self, now: float, limit: int, *, after: tuple[float, str, int] | None = None
    ) -> builtins.list[Waiting]:
        """Messages of all inboxes that have expired at ``now``, the longest first, at most ``limit``.

        They are found by index, and stay until they are settled. With ``math.inf`` and 1 it tells what
        expires next.

        Args:
            now: those whose time is this or before.
            limit: at most so many.
            after: ``expires``, user and position of one that need not be there any more: only what comes
                behind it.
        """

    @abc.abstractmethod
    def statistics(self) -> StoreStatistics:
        """What the store has done since it was opened."""
