"""Messages for users: put into their inboxes, handed to their connections, and kept until somebody has them.

All that is under way for one user goes one after the other, so that it arrives in order: what is sent
to her, and the looks into her inbox when she connects. While nothing is, there is nothing of her here
but her connections, and what is out at them (`offers`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from functools import partial
from time import perf_counter
from typing import Any, Final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.turn import TURN
from trio_rooms._loop.wall import WallClock
from trio_rooms._sockets.flags import GONE
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Link
from trio_rooms._sockets.sent import Sent
from trio_rooms._sockets.standing import Unsettled
from trio_rooms._state.record import Record
from trio_rooms.errors import RoomsClosed, StoreClosed, StoreError
from trio_rooms.stores.base import Offer, Store, Waiting

from .abroad import Abroad
from .courier import Around, Courier, has_session
from .inboxes import Inboxes
from .message import Message
from .offers import Offered, Offers, Out
from .pending import Answer, Answers, Item, Pending
from .settling import Settling

__all__ = ["Office", "UsersStatistics"]

logger = logging.getLogger("trio_rooms")

_MOST_WORKERS: Final = 256
"""Users that are worked on at a time; what is handed over of several is one transaction of the store."""
_MOST_READERS: Final = 16
"""Inboxes that are read at a time."""
_PAGE: Final = 64
"""Messages that are read of one at a time."""
_AGAIN: Final = 5.0
"""Seconds after which an inbox that could not be read is read again."""
_LATER: Final = 30.0
"""Seconds after which something is offered again that a room could not write."""
_NOBODY: Final[Answers] = {}
_NO_MARK: Final = 1 << 63
"""Above all places in inboxes."""
_CLOSED: Final = "the rooms have closed, and what became of this is not known"


@attrs.frozen
class UsersStatistics:
    """What users have been sent, and what is under way for them."""

    connected: int
    """Users that have a connection now."""
    pending: int
    """Users for whom something is under way now."""
    sent: int
    """Messages that were handed over."""
    delivered: int
    """Those that somebody has: acknowledged, or written where nobody acknowledges."""
    stored: int
    """Those that waited in an inbox, since the user had no connection for them."""
    expired: int
    """Those whose time was over before."""
    dropped: int
    """Those that were volatile and not written, or for which an inbox had no room."""
    given_back: int
    """How often one was not acknowledged, and waited for the next connection."""


class Office:
    """Has the messages of all users.

    Args:
        of: the connections of a user, or those in one room.
        hub: has them.
        store: has the inboxes.
        around: has the rooms.
        spawn: starts a task of the runtime.
        deadlines: those of the runtime.
    """

    def __init__(
        self,
        of: Callable[[str, str], Iterator[Link]],
        hub: SocketHub,
        store: Store,
        around: Around,
        spawn: Callable[[Callable[..., Coroutine[Any, Any, None]]], None],
        deadlines: Deadlines,
    ) -> None:
        self.offers: Offers = Offers()
        """What is out."""
        self.settling: Settling = Settling(store, spawn, self._rested)
        """What is being removed."""
        self.inboxes: Inboxes = Inboxes(store)
        """Where messages are put."""
        self._of = of
        self._hub = hub
        self._store = store
        self._around = around
        self._spawn = spawn
        self._deadlines = deadlines
        self._courier = Courier(hub, around, self)
        self._wall = WallClock()
        self._pending: dict[str, Pending] = {}
        self._queue: deque[str] = deque()
        self._workers = 0
        self._readers = trio.CapacityLimiter(_MOST_READERS)
        self._endings = 0
        """How many sessions have ended, or rooms with theirs."""
        self._coming: set[int] = set()
        """Messages that rooms have put into inboxes, or are about to, and that come here next."""
        self.abroad: Abroad | None = None
        """Other nodes; None where there are none."""
        self._marks: dict[str, int] = {}
        """Of users who have a connection here, up to which place of their inboxes this node has handed out
        what there is; only where there are other nodes."""
        self.noted: Callable[[float], None] = _nothing
        """Told when something that is in an inbox expires; the runtime sets it."""
        self._closed = False
        self._at_rest: trio.Event | None = None
        self._sent = self._delivered = self._stored = self._expired = self._dropped = self._given_back = 0

    def statistics(self, connected: int) -> UsersStatistics:
        """What it has done until now."""
        return UsersStatistics(
            connected,
            len(self._pending),
            self._sent,
            self._delivered,
            self._stored,
            self._expired,
            self._dropped,
            self._given_back,
        )

    # Sending.

    async def room_for(self, user: str) -> None:
        """Wait until something more may be sent to a user; not a checkpoint where it may be now."""
        while (pending := self._pending.get(user)) is not None and pending.full:
            await pending.fewer()

    def send(
        self, message: Message, done: Callable[[Sent], None], refused: Callable[[Exception], None]
    ) -> None:
        """Send a message: now, or behind what is under way for the same user.

        Args:
            message: what.
            done: told what became of it, once it is durable or was written.
            refused: told instead why nobody will get it.
        """
        if self._closed:
            refused(RoomsClosed(_CLOSED))
            return
        self._sent += 1
        if self.abroad is None and message.user not in self._pending:
            links = self._recipients(message.user, message.room)
            if message.volatile:
                done(self._fling(message, links))
                return
            if links and self._courier.can_write(links, message):
                self._delivered += 1
                done(self._courier.hand(message, links, None))
                return
        self._add(Item(message, done, refused))

    def send_behind(self, sender: Record, message: Message) -> None:
        """Send a message from a handler whose effects wait until what it wrote is durable.

        What is kept goes into its inbox with that, all or nothing.

        Args:
            sender: the record of its room.
            message: what.
        """
        gate = sender.gate
        assert gate is not None
        if message.volatile or (gate.done is not None and not gate.open.durable):
            gate.add(partial(self.send, message, _nothing, self._lost), message.size)
            return
        sender.delta.sends.append(message.post())
        self._coming.add(message.id)
        gate.open.undo.append(partial(self._coming.discard, message.id))
        gate.add(partial(self._posted, message), message.size)

    def _posted(self, message: Message) -> None:
        """What a room has sent is in its inbox now."""
        self._coming.discard(message.id)
        self._sent += 1
        pending = self._pending.get(message.user)
        if pending is not None and pending.full:
            self._look_everywhere(message.user)  # It is found there.
        else:
            self._add(Item(message, _nothing, self._lost, posted=True, counted=False))
        self._pending[message.user].measure = True

    def _lost(self, error: Exception) -> None:
        """What a handler has sent is lost, and nobody waits to hear of it."""
        logger.error("a message for a user is lost: %s", error)
        self._hub.metrics.lost["message"] += 1

    def _add(self, item: Item) -> None:
        user = item.message.user
        pending = self._pending.get(user)
        if pending is None:
            pending = self._pending[user] = Pending()
        pending.add(item)
        self._go(user, pending)

    @property
    def pending(self) -> int:
        """For how many users something is under way."""
        return len(self._pending)

    def has(self, user: str, number: int) -> bool:
        """Whether a message that waits is out here, or about to be removed."""
        return self.offers.is_out(user, number) or self.settling.has(user, number)

    def _fling(self, message: Message, links: list[Link]) -> Sent:
        if self.abroad is not None and not links:
            return Sent()  # Whether it is dropped is known when the others have said.
        sent = self._courier.fling(message, links)
        self._dropped += sent.dropped
        self._delivered += bool(sent.reached)
        return sent

    def _recipients(self, user: str, room: str) -> list[Link]:
        return [link for link in self._of(user, room) if self._courier.may_get(link)]

    async def waiting(self, user: str) -> int:
        """How many messages are in an inbox. A checkpoint.

        Raises:
            StoreError: it cannot be read.
        """
        size = await self._store.inbox_size(user)
        return max(size.count - self.settling.count(user), 0)

    # What happens on connections.

    def entered(self, link: Link) -> None:
        """A connection is in its room: what waits for its user is offered to it."""
        if type(link.session) is Unsettled and has_session(link):
            self.acknowledged(link, link.session.pos - 1)
        elif has_session(link) and link.sid != link.id:
            self.acknowledged(link, 1 << 62)  # It came back and has all that was sent to it.
        if self._courier.may_get(link):
            self._look(str(link.user), link)

    def left(self, link: Link) -> None:
        """A connection has left its room; what waited at it, and nowhere else, is given back."""
        if not has_session(link):
            self.session_over(link.roster.key, link.id)

    def acknowledged(self, link: Link, seq: int) -> None:
        """The client of a session has everything up to a place."""
        journal = link.roster.journal
        if journal is not None:
            seq = min(seq, journal.released)
        for out in self.offers.acknowledged(link.roster.key, link.sid, seq):
            self._delivered += 1
            self.settling.add(out.user, (out.id,))

    def session_over(self, key: str, sid: int, user: str | None = None) -> None:
        """A session is no more: what it has not acknowledged is given back.

        Args:
            key: its room.
            sid: the session.
            user: whose it is, where it has not acknowledged something.
        """
        self._endings += 1
        back = self.offers.over(key, sid)
        self._take_back(back)
        if self.abroad is not None and user is not None and not back:
            self._look_everywhere(user)  # It may have been offered something by another node.

    def all_over(self, key: str) -> None:
        """All sessions of a room are no more."""
        self._endings += 1
        self._take_back(self.offers.all_over(key))

    def let_go(self, key: str) -> None:
        """A room is not at home here any more: what its sessions were offered, its new home finds out."""
        self._endings += 1
        for user in {out.user for out in self.offers.all_over(key)}:
            self._look_everywhere(user)

    def _take_back(self, outs: list[Out]) -> None:
        self._given_back += len(outs)
        for user in {out.user for out in outs}:
            self._look_everywhere(user)

    # What other nodes tell.

    def came(self, user: str) -> None:
        """A user has a connection here from now on."""
        if self.abroad is not None:
            self.abroad.came(user)

    def went(self, user: str) -> None:
        """A user has no connection here any more."""
        if self.abroad is not None:
            self._marks.pop(user, None)
            self.abroad.went(user)

    def look(self, user: str, *, whole: bool, answers: Answers = _NOBODY) -> None:
        """Look into an inbox: for what has come, or for all that can be offered now.

        Args:
            user: whose it is.
            whole: whether for all.
            answers: by the ids of messages, whom to tell what becomes of them here.
        """
        if self._closed or next(self._of(user, ""), None) is None:
            for answer in answers.values():
                answer(Sent())
            return
        pending = self._pending.get(user)
        if pending is None:
            pending = self._pending[user] = Pending()
        pending.news = True
        pending.look |= whole
        pending.expect(answers)
        self._go(user, pending)

    def fling(self, message: Message, done: Callable[[Sent], None]) -> None:
        """Send what is volatile, and was sent at another node."""
        if self._closed:
            return
        if message.user not in self._pending:
            done(self._fling(message, self._recipients(message.user, message.room)))
        elif not self._pending[message.user].full:
            self._add(Item(message, done, _nothing, foreign=True))

    # What becomes of a message at one place; see `courier.Whole`.

    def offer(self, out: Out, key: str, sid: int) -> Offered:
        """It is out at one place more."""
        return self.offers.offer(out, key, sid)

    def placed(self, offered: Offered, seq: int) -> None:
        """It has its place in the journal of a room."""
        self.offers.placed(offered, seq)

    def written(self, out: Out) -> None:
        """It was written to a connection without a session."""
        self.offers.settled(out)
        if not self.settling.has(out.user, out.id):
            self._delivered += 1
            self.settling.add(out.user, (out.id,))

    def refused(self, offered: Offered) -> None:
        """A room could not write it."""
        for out in self.offers.withdraw((offered,)):
            self._given_back += 1
            self._deadlines.set(trio.current_time() + _LATER, partial(self._look_everywhere, out.user))

    # One thing after the other.

    def _look(self, user: str, link: Link | None = None) -> None:
        """There may be something in an inbox that can be offered now."""
        if self._closed or next(self._of(user, ""), None) is None:
            return
        pending = self._pending.get(user)
        if pending is None:
            pending = self._pending[user] = Pending()
        pending.look = True
        if link is not None:
            pending.lookers.append(link)
        self._go(user, pending)

    def _look_everywhere(self, user: str) -> None:
        """The same for all nodes."""
        self._look(user)
        if self.abroad is not None and not self._closed:
            self.abroad.look(user)

    def _look_again(self, user: str) -> None:
        """An inbox that could not be read may be readable now."""
        pending = self._pending.get(user)
        if pending is not None:
            pending.blocked = False
            self._go(user, pending)

    def _go(self, user: str, pending: Pending) -> None:
        """Have somebody work on what is under way for a user."""
        if pending.queued or self._closed:
            return
        pending.queued = True
        self._queue.append(user)
        if self._workers < _MOST_WORKERS:
            self._workers += 1
            self._spawn(self._work)

    @enable_ki_protection
    async def _work(self) -> None:
        """Work on one user after the other, until nothing is under way for any."""
        try:
            while self._queue:
                user = self._queue.popleft()
                pending = self._pending[user]
                try:
                    while not pending.idle:
                        with self.settling.remembered(user):
                            await self._work_off(user, pending)
                except Exception:
                    logger.exception("what is under way for user %r has failed", user)
                    self._refuse(pending, RoomsClosed(_CLOSED))
                    pending.look = pending.measure = False
                pending.queued = False
                if not pending.blocked:
                    del self._pending[user]
                    pending.tell()
        finally:
            self._workers -= 1
            self._rested()

    async def _work_off(self, user: str, pending: Pending) -> None:
        """Do what there is to be done for a user now: all that was sent, and a look if one is wanted."""
        if self.abroad is not None:
            await self.abroad.ready()
        left = deque(await self._post(user, pending, pending.take()))
        if self.abroad is not None and left:
            await self.abroad.tell(user, [item for item in left if not item.foreign])
            # What others have sent meanwhile may be in her inbox before it.
            pending.news |= any(not item.message.volatile for item in left)
        until = perf_counter() + TURN
        while True:
            # Also where she has come since the last one was delivered: that may wait, and be before the rest.
            if (pending.look or pending.news) and not pending.blocked:
                left = deque(await self._offer_waiting(user, pending, left))
                until = perf_counter() + TURN
            if not left:
                break
            item = left.popleft()
            self._deliver_item(item, blocked=pending.blocked)
            if perf_counter() > until:
                await trio.lowlevel.checkpoint()
                until = perf_counter() + TURN
        pending.taken = []

    async def _post(self, user: str, pending: Pending, items: list[Item]) -> list[Item]:
        """Put into the inbox what is not there; returns what is still to be delivered."""
        posts = [item.message.post() for item in items if not (item.posted or item.message.volatile)]
        measured, pending.measure = pending.measure, False
        if not (posts or measured):
            return items
        try:
            size = (await self.inboxes.post(posts))[user] if posts else await self._store.inbox_size(user)
            if items:
                self.noted(min(item.message.expires for item in items))
        except (StoreError, ValueError, TypeError) as error:
            if not posts:
                return items  # It is measured with the next one.
            failure = RoomsClosed(_CLOSED) if isinstance(error, StoreClosed) else error
            kept = []
            for item in items:
                if item.posted or item.message.volatile:
                    kept.append(item)
                else:
                    item.refused(failure)
            return kept
        if not self.inboxes.over(size):
            return items
        try:
            gone = set(await self.inboxes.surplus(user, self._stays))
        except StoreError:
            return items  # They are there. It is looked at again with the next one.
        self._dropped += len(gone)
        if gone:
            self.settling.add(user, gone)
        kept = []
        for item in items:
            if item.message.id in gone:
                item.done(Sent(dropped=1))
            else:
                kept.append(item)
        return kept

    def _stays(self, row: Waiting) -> bool | None:
        """Whether a message must stay in its inbox; None for one that is about to be removed."""
        post = row.post
        if self.settling.has(post.user, post.id):
            return None
        return row.offer is not None or post.id in self._coming or self.offers.is_out(post.user, post.id)

    def _deliver(self, message: Message, *, blocked: bool = False) -> Sent:
        """Hand a message that is in its inbox, unless it is volatile, to all who are there."""
        user, links = message.user, self._recipients(message.user, message.room)
        if message.volatile:
            return self._fling(message, links)
        out, removed = self.offers.is_out(user, message.id), self.settling.has(user, message.id)
        if message.expires <= self._wall.now() and not out:
            if not removed:  # Else the janitor was here before.
                self._expire(user, message.id)
            return Sent(dropped=1)
        if out or removed:
            return Sent()
        if blocked or not links:
            return Sent(stored=1)
        return self._courier.hand(message, links, self.offers.out(user, message.id))

    def _expire(self, user: str, number: int) -> None:
        self._expired += 1
        self.settling.add(user, (number,))

    # A look into an inbox.

    async def _offer_waiting(self, user: str, pending: Pending, items: Iterable[Item]) -> list[Item]:
        """Offer what waits in an inbox to one connection, and in its place what was sent just now to all.

        Where there are other nodes, all that is behind what was handed out here before was sent just now.

        Returns:
            What was not found there, and is still to be delivered.
        """
        abroad = self.abroad
        whole, pending.look, pending.news = pending.look, False, False
        lookers, pending.lookers = pending.lookers, []
        answers, pending.answers = pending.answers or {}, None
        fresh = {item.message.id: item for item in items}
        live: dict[tuple[str, int, int], bool] = {}
        mark = self._marks.get(user, _NO_MARK)
        after = 0 if whole or mark == _NO_MARK else mark
        passed = False
        # The place of what is about to come from a room here, and has to go before what is behind it.
        ahead: int | None = None
        taken: Collection[int] = ()
        try:
            if abroad is not None:
                await abroad.known(user)
            async with self._readers:
                while next(self._of(user, ""), None) is not None:
                    rows = await self._store.inbox(user, after=after, limit=_PAGE)
                    if abroad is not None:
                        taken = await self._taken(user, [row for row in rows if row.position <= mark], live)
                    until = perf_counter() + TURN
                    for row in rows:
                        number, new = row.post.id, row.position > mark
                        if number not in fresh and (
                            number in self._coming
                            or number in taken
                            or (not new and await self._is_elsewhere(row, live))
                        ):
                            if number in self._coming and ahead is None:
                                ahead = row.position
                            self._pass_mark(user, row.position, ahead)
                            continue
                        if passed and pending.look:
                            pending.lookers[:0] = lookers
                            pending.expect(answers)
                            answers = {}
                            return [*fresh.values()]  # Who has come since gets what was passed over first.
                        if number in fresh:
                            passed = self._deliver_item(fresh.pop(number)).stored > 0 or passed
                        elif new:
                            passed = self._deliver_new(row, pending, answers).stored > 0 or passed
                        else:
                            passed = not self._offer_one(row, lookers) or passed
                        self._pass_mark(user, row.position, ahead)
                        if perf_counter() > until:
                            await trio.lowlevel.checkpoint()
                            until = perf_counter() + TURN
                    if rows:
                        after = rows[-1].position
                    if len(rows) < _PAGE:
                        if abroad is not None and next(self._of(user, ""), None) is not None:
                            self._marks.setdefault(user, after if ahead is None else ahead - 1)
                        break
        except StoreError as error:
            logger.error("the inbox of user %r cannot be read: %s", user, error)  # noqa: TRY400
            pending.look = pending.blocked = True
            # However long that lasts, and however often she comes: who is gone gets nothing.
            pending.lookers = [link for link in (*lookers, *pending.lookers) if not link.flags & GONE]
            self._deadlines.set(trio.current_time() + _AGAIN, partial(self._look_again, user))
            answers = {}  # Who has asked is not told.
        finally:
            if abroad is not None:
                abroad.offered(user)
        if answers and not whole and mark != _NO_MARK:
            # What was told of is not behind the mark: the engine has lost something, or somebody has it.
            pending.expect(answers)
            pending.look = True
        else:
            for answer in answers.values():
                answer(Sent())
        return [*fresh.values()]

    def _pass_mark(self, user: str, position: int, ahead: int | None) -> None:
        """What is in an inbox up to a place has been handed out here, or is for nobody here.

        Nothing is passed over that is `ahead`: it would be handed out behind what comes after it.
        """
        mark = self._marks.get(user)
        if mark is not None and position > mark and ahead is None:
            self._marks[user] = position

    async def _taken(
        self, user: str, rows: Iterable[Waiting], live: dict[tuple[str, int, int], bool]
    ) -> Collection[int]:
        """Which of what waits other nodes offer to somebody, and could be offered here.

        Raises:
            StoreError: it cannot be read what is on its way.
        """
        assert self.abroad is not None
        ids = [
            row.post.id
            for row in rows
            if row.post.id not in self._coming
            and self._recipients(user, row.post.room)
            and not await self._is_elsewhere(row, live)
        ]
        return await self.abroad.taken(user, ids) if ids else ()

    def _deliver_item(self, item: Item, *, blocked: bool = False) -> Sent:
        """Hand a message that is in its inbox, unless it is volatile, to all who are there; and say so."""
        sent = self._deliver(item.message, blocked=blocked)
        self._stored += sent.stored
        item.done(sent)
        return sent

    def _deliver_new(self, row: Waiting, pending: Pending, answers: dict[int, Answer]) -> Sent:
        """The same for what another node has put there."""
        assert self.abroad is not None
        number, sent = row.post.id, Sent()
        try:
            message = Message.stored(row.post)
        except Exception:
            logger.exception("a message in the inbox of user %r is damaged", row.post.user)
        else:
            sent = self._deliver(message)
        answer = answers.pop(number, None) or (pending.answers or {}).pop(number, None)
        if answer is None:
            self.abroad.early(number, sent)
        else:
            answer(sent)
        return sent

    async def _is_elsewhere(self, row: Waiting, live: dict[tuple[str, int, int], bool]) -> bool:
        """Whether a message that waits is on its way already, or is to go.

        Args:
            row: the message.
            live: what is known of sessions that have been looked up for this inbox.

        Raises:
            StoreError: whether it is cannot be read.
        """
        post = row.post
        if self.offers.is_out(post.user, post.id) or self.settling.has(post.user, post.id):
            return True
        if post.expires <= self._wall.now():
            self._expire(post.user, post.id)
            return True
        if row.offer is not None:
            place = row.offer.key, row.offer.sid, self._endings  # What has ended since may be this.
            if place not in live:
                live[place] = await self._goes_on(row.offer)
            if live[place]:
                if self.abroad is None or self.abroad.is_home(row.offer.key):
                    self._adopt(row.offer, post.id)
                return True
        return False

    def _offer_one(self, row: Waiting, lookers: list[Link]) -> bool:
        """Offer a message that waits to one connection; False where there is none for it.

        Args:
            row: the message.
            lookers: connections that have come, the first of which gets it.
        """
        post = row.post
        links = self._recipients(post.user, post.room)
        if not links:
            return False
        try:
            message = Message.stored(post)
        except Exception:
            logger.exception("a message in the inbox of user %r is damaged", post.user)
            return True
        # Whoever connects is there, although that alone uses no connection of a sleeping room.
        came = next((link for link in lookers if link in links), None)
        out = self.offers.out(post.user, post.id)
        self._courier.hand(message, [came or links[-1]], out, at_once=came is not None)
        return True

    async def expire(self, row: Waiting) -> bool:
        """Remove a message whose time is over, unless somebody has it who may still acknowledge it.

        Returns:
            Whether it is gone, or soon will be.

        Raises:
            StoreError: whether somebody has it cannot be read.
        """
        post = row.post
        if self.settling.has(post.user, post.id):
            return True
        if self.offers.is_out(post.user, post.id) or (
            row.offer is not None and await self._goes_on(row.offer)
        ):
            return False
        if not self.offers.is_out(post.user, post.id):
            self._expire(post.user, post.id)
        return True

    async def _goes_on(self, offer: Offer) -> bool:
        """Whether a session that a message was offered to is not over, so that it may have it, or get it."""
        if self.abroad is not None and not self.abroad.is_home(offer.key):
            stored = await self._store.session(offer.key, offer.sid)
            return stored is not None and not stored.link.ended
        roster = self._hub.rosters.get(offer.key)
        if roster is not None and roster.link_of(offer.sid) is not None:
            return True
        if not self._around.serves(offer.key):
            return False  # Nobody can come back to it here.
        record = self._around.record(offer.key)
        record.pin()
        try:
            row, _ = await record.row(offer.sid)
        finally:
            record.unpin()
        return row is not None and not row.link.ended

    def _adopt(self, offer: Offer, number: int) -> None:
        """A message is on its way to a session since before this process, or before it came back."""
        if self.offers.is_out(offer.user, number) or self.settling.has(offer.user, number):
            return
        self.offers.offer(self.offers.out(offer.user, number), offer.key, offer.sid, offer.seq)
        roster = self._hub.rosters.get(offer.key)
        link = None if roster is None else roster.link_of(offer.sid)
        if link is not None and has_session(link):
            all_of_it = type(link.session) is not Unsettled
            assert link.session is not None
            self.acknowledged(link, 1 << 62 if all_of_it else link.session.pos - 1)  # type: ignore[union-attr]

    # The end.

    @property
    def busy(self) -> bool:
        """Whether something is under way that could be done."""
        return bool(self._queue) or self._workers > 0 or not self.settling.empty

    async def rest(self) -> None:
        """Wait until nothing is under way that could be done."""
        while self.busy:
            self._at_rest = trio.Event()
            await self._at_rest.wait()

    def _rested(self) -> None:
        if self._at_rest is not None and not self.busy:
            self._at_rest.set()

    def close(self) -> None:
        """The rooms have closed: who waits is told so."""
        self._closed = True
        if self.abroad is not None:
            self.abroad.close()
        for pending in [*self._pending.values()]:
            self._refuse(pending, RoomsClosed(_CLOSED))
            pending.tell()

    def _refuse(self, pending: Pending, error: Exception) -> None:
        for item in (*pending.taken, *pending.items):
            item.refused(error)
        pending.items.clear()
        pending.taken = []


def _nothing(_: object) -> None:
    """Nobody waits to be told."""
