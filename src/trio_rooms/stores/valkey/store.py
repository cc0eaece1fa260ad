"""The store in a server that speaks as Valkey does: for one process, or for many nodes."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final

import attrs
import trio

from trio_rooms._arguments import whole
from trio_rooms._valkey import Address, Durability
from trio_rooms.errors import StoreClosed, StoreInUse, StoreReadOnly
from trio_rooms.stores.base import (
    Commit,
    Due,
    Entry,
    Fence,
    InboxSize,
    Post,
    RoomHead,
    Store,
    StoredRoom,
    StoredSession,
    StoreStatistics,
    Timer,
    Waiting,
)
from trio_rooms.stores.checks import check_commit, check_ids, check_posts, encode, encoded_range

from . import inboxes, rooms, sessions, timers
from .commits import arguments, check_size, judge, reduces, refusal
from .opened import Opened, room, user
from .rows import unpack_timer

__all__ = ["ValkeyStore"]

_PREFIX: Final[Any] = "rooms"
"""What the names of all keys begin with."""
_VALUES: Final = (b"w:", b"v:")
_TIMERS: Final = (b"tn:", b"t:")
"""What the keys of names, and of what is under them, begin with."""


def _parsed(url: str) -> Address:
    return Address.parse(url)


def _braced(prefix: str) -> bytes:
    return b"{%b}:" % encode(prefix)


@attrs.define(eq=False)
class ValkeyStore(Store):
    """Keeps rooms in a server that speaks as Valkey (8 or later) or Redis (7.0 or later) does.

    A commit is one call of a function in the server, which carries it out whole. What tasks commit in one
    round of the event loop is sent in one piece, and the server syncs once for each piece that it reads.
    Where the server is away, a call waits for it for 5 s, and then raises StoreError; what was on its way is
    sent again, and done once.

    One process at a time has the rooms under a prefix: whoever opens a store there takes them from whoever
    had them before, whose commits are refused from then on. Several nodes share them under an engine, see
    `Engine`.

    Args:
        url: where the server is: ``valkey://HOST:PORT``, ``valkeys://`` for TLS, ``valkey+sentinel://``;
            with ``USER:PASSWORD@`` before the host and ``/DATABASE`` behind it.
        prefix: what the names of all keys begin with, in braces.
        durability: what a power failure may cost. "always": nothing that was committed; the server has to
            have ``appendfsync always``. "everysec": the last second.
        replicas: how many replicas have to have a commit before it returns.
        read_only: look at the rooms without taking them, while others may have them.
        fence: of an engine: by which claims this node writes.

    Raises:
        ValueError: the URL is none, or the durability.
    """

    _address: Address = attrs.field(converter=_parsed)
    _prefix: bytes = attrs.field(default=_PREFIX, kw_only=True, converter=_braced)
    _durability: Durability = attrs.field(default="always", kw_only=True)
    _replicas: int = attrs.field(default=0, kw_only=True)
    _read_only: bool = attrs.field(default=False, kw_only=True)
    _fence: Fence | None = attrs.field(default=None, kw_only=True)
    _opened: Opened | None = attrs.field(default=None, init=False, repr=False)
    _opening: bool = attrs.field(default=False, init=False, repr=False)
    _last: StoreStatistics = attrs.field(default=StoreStatistics(0, 0, 0, 0), init=False, repr=False)
    """What it did while it was open last."""

    def __attrs_post_init__(self) -> None:
        """Refuse what no server could be."""
        whole("replicas", self._replicas)
        if self._durability not in {"always", "everysec"}:
            raise ValueError(f"durability is 'always' or 'everysec', not {self._durability!r:.100}")

    @property
    def epoch(self) -> int:
        """How often the rooms under this prefix had been opened for writing when this store was opened."""
        return self._get_opened().epoch

    def epoch_of(self, key: str) -> int:
        """See `Store.epoch_of`."""
        return self.epoch if self._fence is None else self._fence.epoch_of(key)

    async def open(self) -> None:
        """Connect, and take the rooms, unless they are shared. A server that is starting has 5 s for that.

        Raises:
            StoreInUse: it is open already; or nodes have the rooms, and this is none; the message names them.
            StoreError: the server cannot be reached, or is not what it has to be; the message says what to
                do.
        """
        if self._opened is not None or self._opening:
            msg = f"this ValkeyStore on {self._address} is open already: a store serves one runtime at a time"
            raise StoreInUse(msg)
        self._opening = True
        try:
            durability = None if self._read_only else self._durability
            opened = await Opened.connect(self._address, self._prefix, durability, self._replicas)
            try:
                await self._take(opened)
            except BaseException:
                await opened.end()
                raise
            self._opened = opened
        finally:
            self._opening = False

    async def _take(self, opened: Opened) -> None:
        if self._read_only:
            opened.epoch = int(await opened.ask("GET", self._prefix + b"opened") or 0)
            return
        nodes = await opened.take(alone=self._fence is None)
        if nodes:
            names = ", ".join(one.decode(errors="replace").partition("#")[0] for one in nodes)
            msg = f"nodes have the rooms in {self._address}: {names}; stop them first, or open it read-only"
            raise StoreInUse(msg)

    async def aclose(self) -> None:
        """Write what was handed over, then let go of the connection, cancelled or not.

        Whoever still waits for a commit gets its outcome. A second call does nothing.
        """
        opened, self._opened = self._opened, None
        if opened is None:
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope(shield=True):
            await opened.ways.drain()
            self._last = opened.ways.statistics()
            await opened.end()

    async def load(self, key: str, *, newest: bool = False) -> StoredRoom:
        """See `Store.load`."""
        return await rooms.read_room(self._get_opened(), encode(key), newest=newest)

    async def head(self, key: str) -> RoomHead:
        """See `Store.head`."""
        return await rooms.read_head(self._get_opened(), encode(key))

    async def commit(self, commit: Commit) -> None:
        """See `Store.commit`. A commit that fails after its caller was cancelled is logged."""
        opened = self._get_writing()
        if self._fence is not None and not commit.epoch:
            opened.ways.refuse()
            raise refusal(commit, b"claimed", "another")
        check_commit(commit)
        check_size(commit)
        # Alone it is the commit's own epoch that has to be the store's.
        fence = (b"opened", commit.epoch) if self._fence is None else self._get_fence(opened)
        function = "reduce" if reduces(commit) else "commit"
        given = arguments(self._prefix, commit, *fence)
        about = [room(encode(commit.key))]
        if commit.sends or commit.offers:
            about += {user(encode(one.user)) for one in commit.sends}
            about += {user(encode(one.user)) for one in commit.offers.values()}
        while not await opened.ways.write(about, function, given, partial(judge, commit)):
            await opened.repair(encode(commit.key))

    async def get(self, key: str, name: str) -> bytes | None:
        """See `Store.get`."""
        opened, encoded = self._get_opened(), encode(key)
        value: bytes | None = await opened.ask(
            "HGET", self._prefix + b"v:" + encoded, encode(name), about=room(encoded)
        )
        return value

    async def list(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, bytes]]:
        """See `Store.list`."""
        within = encoded_range(prefix, after)
        found = await rooms.read_named(self._get_opened(), encode(key), _VALUES, within, limit)
        return [(name.decode(), value) for name, value in found]

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """See `Store.keys`."""
        return await rooms.read_keys(self._get_opened(), encoded_range(prefix, after), limit)

    async def session(self, key: str, sid: int) -> StoredSession | None:
        """See `Store.session`."""
        return await sessions.read_session(self._get_opened(), encode(key), sid)

    async def sessions(
        self, key: str, *, after: int = 0, limit: int | None = None, ended: bool = False
    ) -> builtins.list[StoredSession]:
        """See `Store.sessions`."""
        return await sessions.read_sessions(self._get_opened(), encode(key), after, limit, ended=ended)

    async def positions(self, key: str) -> dict[int, int]:
        """See `Store.positions`."""
        return await sessions.read_positions(self._get_opened(), encode(key))

    async def verdicts(self, key: str, sid: int) -> dict[int, bytes]:
        """See `Store.verdicts`."""
        return await sessions.read_verdicts(self._get_opened(), encode(key), sid)

    async def journal(self, key: str, after: int, until: int, most_bytes: int) -> builtins.list[Entry]:
        """See `Store.journal`."""
        return await rooms.read_journal(self._get_opened(), encode(key), after, until, most_bytes)

    async def timers(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, Timer]]:
        """See `Store.timers`."""
        within = encoded_range(prefix, after)
        found = await rooms.read_named(self._get_opened(), encode(key), _TIMERS, within, limit)
        return [(name.decode(), unpack_timer(value)) for name, value in found]

    async def due_timers(self, key: str, now: float, limit: int) -> builtins.list[tuple[str, Timer]]:
        """See `Store.due_timers`."""
        return await timers.read_due_timers(self._get_opened(), encode(key), now, limit)

    async def timer(self, key: str, name: str) -> Timer | None:
        """See `Store.timer`."""
        opened, encoded = self._get_opened(), encode(key)
        found = await opened.ask("HGET", self._prefix + b"t:" + encoded, encode(name), about=room(encoded))
        return None if found is None else unpack_timer(found)

    async def due(self, now: float, limit: int, *, after: Due | None = None) -> builtins.list[Due]:
        """See `Store.due`. Where nodes share the rooms, it gives up connections of those that are no more."""
        opened = self._get_opened()
        if self._fence is not None and after is None:
            await timers.give_up(opened)
        return await timers.read_due(opened, now, limit, after)

    async def post(self, posts: Sequence[Post]) -> dict[str, InboxSize]:
        """See `Store.post`."""
        opened = self._get_writing()
        check_posts(posts)
        return await inboxes.post(opened, self._get_fence(opened), posts)

    async def settle(self, user: str, ids: Collection[int]) -> None:
        """See `Store.settle`."""
        opened = self._get_writing()
        check_ids(ids)
        await inboxes.settle(opened, self._get_fence(opened), user, ids)

    async def inbox(self, user: str, *, after: int = 0, limit: int | None = None) -> builtins.list[Waiting]:
        """See `Store.inbox`."""
        return await inboxes.read_inbox(self._get_opened(), encode(user), after, limit)

    async def inbox_size(self, user: str) -> InboxSize:
        """See `Store.inbox_size`."""
        return await inboxes.read_size(self._get_opened(), encode(user))

    async def inboxes(
        self, *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, InboxSize]]:
        """See `Store.inboxes`."""
        return await inboxes.read_sizes(self._get_opened(), encoded_range("", after), limit)

    async def expired(
        self, now: float, limit: int, *, after: tuple[float, str, int] | None = None
    ) -> builtins.list[Waiting]:
        """See `Store.expired`."""
        return await inboxes.read_expired(self._get_opened(), now, limit, after)

    def statistics(self) -> StoreStatistics:
        """What the store has done since it was opened; all 0 before that."""
        return self._last if self._opened is None else self._opened.ways.statistics()

    def _get_opened(self) -> Opened:
        if self._opened is None:
            msg = f"this ValkeyStore on {self._address} is not open; use it inside 'async with store:'"
            raise StoreClosed(msg)
        return self._opened

    def _get_writing(self) -> Opened:
        opened = self._get_opened()
        if self._read_only:
            msg = f"{self._address} was opened with read_only=True; nothing of this was written"
            raise StoreReadOnly(msg)
        return opened

    def _get_fence(self, opened: Opened) -> tuple[bytes, int]:
        """The counter of openings that says who may write, and what it has to be."""
        return (b"opened", opened.epoch) if self._fence is None else (b"alone", opened.alone)
