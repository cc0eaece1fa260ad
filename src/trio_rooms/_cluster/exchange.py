"""What is sent to users across nodes: who is told, who offers what, and what becomes of it in all."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import attrs
import trio

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._sockets.sent import Sent
from trio_rooms._users.directory import Directory
from trio_rooms._users.message import Message
from trio_rooms._users.pending import Item
from trio_rooms._users.whereabouts import Whereabouts
from trio_rooms._wire.envelope import Body
from trio_rooms.engines.base import Engine
from trio_rooms.errors import EngineLost, StoreError, Unavailable

from .lanes import Lane, Lanes
from .tally import PATIENCE, Tally

__all__ = ["Exchange"]

logger = logging.getLogger("trio_rooms")

_LONG: Final = 5.0
"""Seconds for which it is waited until the others know that a user is here."""
_AT_ONCE: Final = 256
"""Users of whom the engine is told or asked at once."""
_AGAIN_FIRST: Final = 0.05
_AGAIN_LAST: Final = 1.0
"""Seconds until that is tried again, doubled each time that it was in vain."""
_FORGIVEN: Final = 1.0
"""Seconds for which a node that has not answered is not asked what it offers."""
_MOST_UNTOLD: Final = 10_000
"""Users of whom other nodes are to be told something yet; if more, they are told to look at all of theirs."""
_MOST_EARLY: Final = 4096
"""Messages of which is remembered what became of them here, for the node that is about to ask."""
_MOST_LOOKS: Final = 512
"""Users who are looked at because all are, at a time."""
_BETWEEN: Final = 0.01
"""Seconds between two looks whether there are fewer."""

_LOOK: Final = "user.look"
_FLING: Final = "user.fling"
_SENT: Final = "user.sent"
_ALL: Final = "user.all"
_ASK: Final = "user.ask"
_WHERE: Final = "user.where"
_ANSWER: Final = "user.answer"


class Owned(Protocol):
    """What is asked of whoever knows the rooms that are at home here."""

    on_lost: list[Callable[[str], None]]
    on_released: list[Callable[[str], None]]

    def owns(self, key: str) -> bool:
        """Whether a room is one of them."""


class Seated(Protocol):
    """What is asked of a node's seat."""

    incarnation: str
    valid: bool
    on_gone: list[Callable[[Any], None]]
    on_over: list[Callable[[str], None]]

    @property
    def members(self) -> Mapping[str, Any]:
        """The incarnations that live, by name."""

    async def resumed(self) -> None:
        """Wait until this node is one of them."""


@attrs.define(eq=False)
class _Wish:
    """What this node wants to offer to a user."""

    order: tuple[int, str]
    ids: frozenset[int]
    taken: set[int] = attrs.field(factory=set)
    """Those of them that another node offers."""


@attrs.define(eq=False)
class _Question:
    """Something that other nodes are asked."""

    waiting: set[str]
    answers: list[Any] = attrs.field(factory=list)
    over: trio.Event = attrs.field(factory=trio.Event)


class Exchange:
    """What this node and the others tell each other of users; see `Abroad`.

    The engine knows at which nodes a user is. A node is noted there with her first connection, before it
    looks into her inbox, and whoever puts something there asks for the nodes afterwards. So it is found by
    the look, or the node is told.

    Args:
        engine: knows who is where.
        seat: says who this node is, and who else there is.
        lanes: bring what is said.
        owned: knows the rooms that are at home here.
        directory: the users of this node.
        deadlines: those of the runtime.
    """

    def __init__(
        self,
        engine: Engine,
        seat: Seated,
        lanes: Lanes,
        owned: Owned,
        directory: Directory,
        deadlines: Deadlines,
    ) -> None:
        self._engine = engine
        self._seat = seat
        self._lanes = lanes
        self._deadlines = deadlines
        self._directory = directory
        self._office = directory.office
        self.is_home: Callable[[str], bool] = owned.owns
        """See `Abroad`."""
        self._noted: set[str] = set()
        """Users of whom the engine knows that they are here."""
        self._changed: dict[str, None] = {}
        """Users of whom it is to be told whether they are."""
        self._untold: dict[str, bool] = {}
        """Users into whose inboxes others are to look: for all that can be offered, or for what is new."""
        self._all_untold = False
        """Whether they are to look at all of theirs."""
        self._sweeping = False
        """Whether all who are here are to be looked at."""
        self._work = trio.Event()
        self._turned = trio.Event()
        self._tallies: dict[int, Tally] = {}
        self._early: OrderedDict[int, Sent] = OrderedDict()
        self._wishes: dict[str, _Wish] = {}
        self._silent: dict[str, float] = {}
        """When nodes have last not answered in time."""
        self._questions: dict[int, _Question] = {}
        self._clock = 0
        """Counts what was asked: what was asked first is before what was asked by whoever knew of it."""
        for kind, handler in (
            (_LOOK, self._told_to_look),
            (_FLING, self._flung),
            (_SENT, self._counted),
            (_ALL, self._told_to_sweep),
            (_ASK, self._asked),
            (_WHERE, self._asked_where),
            (_ANSWER, self._answered),
        ):
            lanes.on_message(kind, handler)
        lanes.on_end.append(self._sweep)
        lanes.on_back.append(self._begin_anew)
        seat.on_gone.append(self._gone)
        seat.on_over.append(self._over)
        owned.on_lost.append(self._office.let_go)
        owned.on_released.append(self._office.let_go)
        self._office.abroad = self
        for user in directory.links:
            self.came(user)

    # Who is here.

    def came(self, user: str) -> None:
        """See `Abroad`."""
        if user not in self._noted:
            self._change(user)

    def went(self, user: str) -> None:
        """See `Abroad`."""
        self._change(user)

    def _change(self, user: str) -> None:
        self._changed[user] = None
        self._work.set()

    async def known(self, user: str) -> None:
        """See `Abroad`."""
        with trio.move_on_after(_LONG):
            while user not in self._noted and user in self._directory.links:
                await self._turned.wait()
            return
        msg = "the engine does not answer"
        raise StoreError(msg)

    async def ready(self) -> None:
        """See `Abroad`."""
        if not self._seat.valid:
            await self._seat.resumed()

    async def _note(self, user: str, failed: list[str]) -> None:
        """Tell the engine whether a user is here."""
        incarnation, here = self._seat.incarnation, user in self._directory.links
        if not here:
            self._noted.discard(user)
        elif user in self._noted:
            return
        try:
            await self._engine.note_user(user, incarnation, here=here)
        except EngineLost:
            failed.append(user)
            return
        if here and incarnation == self._seat.incarnation:
            self._noted.add(user)

    def _begin_anew(self, _: object = None) -> None:
        """The engine may have forgotten who is here, and nobody may have told this node anything for a while.

        This is another incarnation, or the engine was away, and may have lost what it was told last.
        """
        self._noted.clear()
        self._changed.update(dict.fromkeys(self._directory.links))
        self._sweep()

    def _over(self, former: str) -> None:
        """This is another incarnation: what the former one has told the others last may have been lost."""
        self._all_untold = True
        self._begin_anew(former)

    def _gone(self, member: Any) -> None:
        self._silent.pop(member.incarnation, None)
        self._sweep()

    # The tasks.

    async def run(self) -> None:
        """Tell engine and nodes what they have to know, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_telling)
            nursery.start_soon(self._keep_sweeping)

    async def _keep_telling(self) -> None:
        pause = _AGAIN_FIRST
        while True:
            await self._work.wait()
            self._work = trio.Event()
            if await self._tell_some():
                pause = _AGAIN_FIRST
            else:
                await trio.sleep(pause)
                pause = min(2 * pause, _AGAIN_LAST)
            if self._changed or self._untold or self._all_untold:
                self._work.set()

    async def _tell_some(self) -> bool:
        """Tell some of what there is to be told; False where some of that is still to be told then."""
        changed = [*self._changed][:_AT_ONCE]
        untold = [*self._untold.items()][:_AT_ONCE]
        failed: list[str] = []
        async with trio.open_nursery() as nursery:
            for user in changed:
                del self._changed[user]
                nursery.start_soon(self._note, user, failed)
            for user, whole in untold:
                del self._untold[user]
                nursery.start_soon(self._tell_to_look, user, whole)
        for user in failed:
            self._changed[user] = None
        turned, self._turned = self._turned, trio.Event()
        turned.set()
        if self._all_untold and self._seat.valid:
            self._all_untold = False
            for incarnation in self._seat.members:
                if incarnation != self._seat.incarnation:
                    self._post(incarnation, _ALL)
        return not (failed or self._all_untold or any(user in self._untold for user, _ in untold))

    async def _keep_sweeping(self) -> None:
        """Look at all who are here, when that is wanted."""
        while True:
            while not self._sweeping:
                await self._turned.wait()
            self._sweeping = False
            for user in [*self._directory.links]:
                while self._office.pending >= _MOST_LOOKS:  # noqa: ASYNC110 (nobody tells of each that is done)
                    await trio.sleep(_BETWEEN)
                self._office.look(user, whole=True)

    def _sweep(self, _: object = None) -> None:
        """What others have offered may be offered again, and what they have sent be here unnoticed."""
        self._sweeping = True
        self._work.set()

    # Telling others.

    async def _nodes(self, user: str) -> list[str] | None:
        """The other nodes that a user is at; None where that is not known in time."""
        with trio.move_on_after(PATIENCE):
            try:
                nodes = await self._engine.nodes_of(user)
            except EngineLost:
                return None
            return [node for node in nodes if node != self._seat.incarnation]
        return None

    def _post(self, node: str, kind: str, *values: object) -> bool:
        """Tell another node something; False where it is not known here, and may be one all the same."""
        try:
            self._lanes.lane(node).post(kind, *values)
        except Unavailable:
            return False
        return True

    async def tell(self, user: str, items: Sequence[Item]) -> None:
        """See `Abroad`."""
        nodes = await self._nodes(user)
        kept = [item for item in items if not item.message.volatile]
        tallies = [self._tally(item, nodes) for item in items if item.counted]
        told = nodes is not None
        for node in nodes or ():
            ids = [item.message.id for item in kept]
            reached = not kept or self._post(node, _LOOK, user, False, ids)
            for item in items:
                if item.message.volatile:
                    self._post(node, _FLING, *_packed(item))
            told &= reached
        if not told and kept:
            self._later(user, whole=False)
        for tally in tallies:
            tally.begin()

    def _tally(self, item: Item, nodes: Collection[str] | None) -> Tally:
        """Have what becomes of a message at some nodes added to what becomes of it here."""
        number = item.message.id
        tally = Tally(item.message.volatile, nodes, partial(self._tallies.pop, number, None), self._deadlines)
        self._tallies[number] = tally
        item.total = tally.own
        return tally

    def look(self, user: str) -> None:
        """See `Abroad`."""
        self._later(user, whole=True)

    def _later(self, user: str, *, whole: bool) -> None:
        """Have the other nodes told that they are to look, as soon as that can be done."""
        if len(self._untold) >= _MOST_UNTOLD and user not in self._untold:
            self._untold.clear()
            self._all_untold = True
        self._untold[user] = whole or self._untold.get(user, False)
        self._work.set()

    async def _tell_to_look(self, user: str, whole: bool) -> None:
        nodes = await self._nodes(user)
        told = nodes is not None
        for node in nodes or ():
            told &= self._post(node, _LOOK, user, whole, [])
        if not told:
            self._later(user, whole=whole)

    # What others tell.

    def _told_to_look(self, lane: Lane, user: str, whole: bool, ids: list[int]) -> None:
        answers = {}
        for number in ids:
            answer = partial(self._count, lane, number)
            sent = self._early.pop(number, None)
            if sent is None:
                answers[number] = answer
            else:
                answer(sent)
        self._office.look(user, whole=whole, answers=answers)

    def _told_to_sweep(self, lane: Lane) -> None:  # noqa: ARG002 (whoever it was)
        self._sweep()

    def _flung(
        self, lane: Lane, user: str, number: int, priority: int, expires: float, room: str, body: bytes
    ) -> None:
        message = Message(user, Body.decode(body), priority, expires, True, room, number)
        self._office.fling(message, partial(self._count, lane, number))

    def _count(self, lane: Lane, number: int, sent: Sent) -> None:
        """Say what became of a message here."""
        lane.post(_SENT, number, sent.active, sent.parked, sent.queued, sent.dropped)

    def _counted(self, lane: Lane, number: int, *counts: int) -> None:
        tally = self._tallies.get(number)
        if tally is not None:
            active, parked, queued, dropped = counts
            tally.add(lane.peer, Sent(active, parked, queued, 0, dropped))

    def early(self, number: int, sent: Sent) -> None:
        """See `Abroad`."""
        self._early[number] = sent
        if len(self._early) > _MOST_EARLY:
            self._early.popitem(last=False)

    # Who offers what.

    async def taken(self, user: str, ids: Collection[int]) -> Collection[int]:
        """See `Abroad`."""
        self._clock += 1
        wish = _Wish((self._clock, self._seat.incarnation), frozenset(ids))
        self._wishes[user] = wish
        nodes = await self._nodes(user)
        if nodes is None:
            msg = "the engine does not answer"
            raise StoreError(msg)
        # The inboxes of many are not to wait for one node that stands still.
        lately = trio.current_time() - _FORGIVEN
        nodes = [node for node in nodes if self._silent.get(node, -math.inf) < lately]
        for held in await self._ask(nodes, _ASK, user, wish.order[0], [*ids]):
            wish.taken.update(held)
        return wish.taken

    def _asked(self, lane: Lane, number: int, user: str, clock: int, ids: list[int]) -> None:
        """Another node wants to offer something: whoever asks first has it, unless it is out here."""
        self._clock = max(self._clock, clock) + 1
        wish, held = self._wishes.get(user), []
        for one in ids:
            if self._office.has(user, one):
                held.append(one)
            elif wish is not None and one in wish.ids and one not in wish.taken:
                if wish.order < (clock, lane.peer):
                    held.append(one)
                else:
                    wish.taken.add(one)
        lane.post(_ANSWER, number, held)

    def offered(self, user: str) -> None:
        """See `Abroad`."""
        wish = self._wishes.pop(user, None)
        if wish is not None and any(not self._office.has(user, one) for one in wish.ids - wish.taken):
            self.look(user)  # There was nobody for it after all, and the others have left it to this node.

    async def where(self, user: str, room: str) -> Whereabouts:
        """Where a user is at other nodes, as far as they say so in time.

        Args:
            user: who.
            room: the key of the only room that is meant; empty for all.
        """
        found = Whereabouts()
        for connections, rooms in await self._ask(await self._nodes(user) or (), _WHERE, user, room):
            found = found.and_also(Whereabouts(connections, tuple(rooms)))
        return found

    def _asked_where(self, lane: Lane, number: int, user: str, room: str) -> None:
        here = self._directory.here(user, room)
        lane.post(_ANSWER, number, [here.connections, [*here.rooms]])

    async def _ask(self, nodes: Iterable[str], kind: str, *values: object) -> list[Any]:
        """What some nodes answer, those that do so in time."""
        self._clock += 1
        number, question = self._clock, _Question(set(nodes))
        self._questions[number] = question
        try:
            for node in [*question.waiting]:
                if not self._post(node, kind, number, *values):
                    question.waiting.discard(node)
            if question.waiting:
                with trio.move_on_after(PATIENCE):
                    await question.over.wait()
                for node in question.waiting:
                    self._silent[node] = trio.current_time()
        finally:
            del self._questions[number]
        return question.answers

    def _answered(self, lane: Lane, number: int, answer: Any) -> None:
        question = self._questions.get(number)
        if question is not None and lane.peer in question.waiting:
            question.waiting.discard(lane.peer)
            question.answers.append(answer)
            if not question.waiting:
                question.over.set()

    # The end.

    def close(self) -> None:
        """See `Abroad`."""
        for tally in [*self._tallies.values()]:
            tally.finish()


def _packed(item: Item) -> tuple[Any, ...]:
    """What another node needs of a volatile message."""
    message = item.message
    return message.user, message.id, message.priority, message.expires, message.room, message.body.cbor
