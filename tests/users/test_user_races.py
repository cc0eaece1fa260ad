"""Messages for users while something else happens: what comes first, what is undone, and what fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.sockets.bench import soon
from tests.users.dens import den, inside, nothing, told
from trio_rooms import (
    MemoryStore,
    Rooms,
    RoomsClosed,
    Sent,
    StoreError,
    StoreFull,
    User,
    open_rooms,
)
from trio_rooms.stores import Offer, Waiting
from trio_rooms.testing import FaultyStore, MemoryClient


@attrs.define
class Under:
    """Rooms over a store that fails as it is told."""

    rooms: Rooms
    store: FaultyStore

    @property
    def ana(self) -> User:
        """She whom all of this is about."""
        return self.rooms.user("ana")

    async def rest(self) -> None:
        """Until nothing is under way."""
        await self.rooms._supervisor.users.office.rest()


@asynccontextmanager
async def under(store: FaultyStore | None = None, **options: Any) -> AsyncIterator[Under]:
    """Open rooms, in one of which effects wait until they are durable."""
    used = FaultyStore(MemoryStore()) if store is None else store
    rooms = [den(**options), den("hall", durability="commit", **options)]
    async with open_rooms(rooms, store=used, stop_timeout=3, close_timeout=1) as opened:
        yield Under(opened, used)


class Post:
    """A message that somebody sends, and waits for what becomes of it."""

    def __init__(self, nursery: trio.Nursery, send: Callable[[], Any]) -> None:
        self.sent: Sent | None = None
        self.error: Exception | None = None
        self.over = trio.Event()
        nursery.start_soon(self._run, send)

    async def _run(self, send: Callable[[], Any]) -> None:
        try:
            self.sent = await send()
        except Exception as error:
            self.error = error
        self.over.set()


async def test_who_connects_while_a_message_is_written_gets_what_waited_before_it(
    autojump_clock: MockClock,
) -> None:
    """The older ones first, in one order; and the caller is told that it reached her."""
    async with under() as world, trio.open_nursery() as nursery:
        for number in range(3):
            await world.ana.send("told", number)
        held = world.store.hold_posts("ana")
        post = Post(nursery, partial(world.ana.send, "told", 3))
        await held.wait_arrived()
        async with inside(world.rooms, "ana") as client:
            later = Post(nursery, partial(world.ana.send, "told", 4))
            await trio.sleep(1)
            held.release()
            assert await told(client, 5) == [0, 1, 2, 3, 4]
            await nothing(client)
            assert post.sent == later.sent == Sent(active=1)


async def test_two_devices_that_connect_at_once_share_an_inbox(autojump_clock: MockClock) -> None:
    """Each message is offered to one of them, all to the same; the other gets what is sent from then on."""
    async with under() as world:
        for number in range(100):
            await world.ana.send("told", number)
        reads = world.store.hold_reads("ana")
        async with inside(world.rooms, "ana") as first, inside(world.rooms, "ana", "den/b") as second:
            await reads.wait_arrived()
            reads.release()
            assert await told(first, 100) == [*range(100)]
            await nothing(second)
            await world.ana.send("told", 100)
            assert await told(first, 1) == await told(second, 1) == [100]
            await second.acknowledge()  # One of the two is enough.
            await first.acknowledge(first.seq - 1)
            await trio.sleep(1)
            assert await world.ana.waiting() == 0


@pytest.mark.parametrize("key", ["den/a", "hall/a"])
async def test_a_session_that_ends_while_its_offer_is_written_gives_it_back(
    key: str, autojump_clock: MockClock
) -> None:
    """Whoever else is there gets it, once."""
    async with under() as world, inside(world.rooms, "ana", "den/b") as other:
        await world.ana.send("told", "first")
        assert await told(other, 1) == ["first"]
        await other.acknowledge()
        async with inside(world.rooms, "ana", key) as client:
            await client.ask("tell", {"to": "bob", "text": 0})
            await world.rest()
            room = world.rooms.get(*key.split("/"))
            await room.hibernate()
            held = world.store.hold_commits(key)
            assert (await room.user("ana").send("told", 0)).reached == 1
            assert (await room.user("ana").send("told", 1)).reached == 1
            await held.wait_arrived()
            await client.hang_up()
        held.release()
        await trio.sleep(1)
        assert await world.ana.waiting() == 2
        async with inside(world.rooms, "ana", key) as again:
            assert await told(again, 2) == [0, 1]
        await nothing(other)


async def test_a_rollback_offers_anew_what_was_on_its_way(autojump_clock: MockClock) -> None:
    """With another place in the journal, once, and in order; and the acknowledgement of that removes it."""
    async with (
        under() as world,
        inside(world.rooms, "ana", "hall/a") as ana,
        inside(world.rooms, "bob", "hall/a") as bob,
    ):
        await bob.ask("tell", {"to": "eve", "text": 0})
        held = world.store.hold_commits("hall/a")
        world.store.fail_commits(StoreFull("it is full"), key="hall/a")
        await bob.emit("say", "undone, too")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask_in_vain, bob, {"to": "ana", "text": "undone"})
            await held.wait_arrived()
            assert await world.ana.send("told", 1) == Sent(active=1)
            assert await world.ana.send("told", 2) == Sent(active=1)
            held.release()
        assert await told(ana, 2) == [1, 2]
        await ana.acknowledge()
        await trio.sleep(1)
        assert await world.ana.waiting() == 0
        await bob.ask("tell", {"to": "ana", "text": "done"})
        assert await told(ana, 1) == ["done"]
        assert not world.rooms._supervisor.users.office._coming


async def _ask_in_vain(client: MemoryClient, data: Any) -> None:
    with pytest.raises(Exception, match="not_saved"):
        await client.ask("tell", data)


async def test_nothing_arrives_before_it_is_known_that_what_it_goes_with_is_durable(
    autojump_clock: MockClock,
) -> None:
    """Also if it is in the inbox already, and its user connects just then; it arrives once."""
    async with under() as world, inside(world.rooms, "bob", "hall/a") as bob:
        await bob.ask("tell", {"to": "eve", "text": 0})
        await world.rest()
        world.store.fail_commits(StoreError("no answer"), times=6, key="hall/a", applied=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(bob.ask, "tell", {"to": "ana", "text": 1}))
            await soon(lambda: world.rooms._supervisor.users.office._coming)
            await trio.sleep(0.2)
            assert await world.ana.waiting() == 1
            async with inside(world.rooms, "ana") as ana:
                with trio.move_on_after(0.3):
                    pytest.fail(f"it got {await ana.receive()}")
                assert await told(ana, 1) == [1]
                await nothing(ana)


async def test_what_is_found_in_an_inbox_as_it_is_told_of_is_offered_once(autojump_clock: MockClock) -> None:
    """The commit of its room was told while the inbox was about to be read."""
    async with under() as world, inside(world.rooms, "bob", "hall/a") as bob:
        await bob.ask("tell", {"to": "eve", "text": 0})
        await world.rest()
        reads = world.store.hold_reads("ana")
        async with inside(world.rooms, "ana") as ana:
            await reads.wait_arrived()
            await bob.ask("tell", {"to": "ana", "text": 1})
            await trio.sleep(1)
            reads.release()
            assert await told(ana, 1) == [1]
            await nothing(ana)


async def test_an_acknowledgement_of_what_was_not_sent_removes_nothing(autojump_clock: MockClock) -> None:
    """Whatever number a client says."""
    async with under() as world, inside(world.rooms, "ana", "hall/a") as client:
        await client.ask("tell", {"to": "eve", "text": 0})
        await world.rest()
        held = world.store.hold_commits("hall/a")
        assert (await world.ana.send("told", 1)).reached == 1
        await held.wait_arrived()
        await client.acknowledge(1 << 40)
        await trio.sleep(1)
        assert await world.ana.waiting() == 1
        held.release()
        assert await told(client, 1) == [1]
        assert await world.ana.waiting() == 1


async def test_who_comes_back_with_all_of_it_need_not_say_so_again(autojump_clock: MockClock) -> None:
    """What its client says that it has, as it comes back, is an acknowledgement."""
    async with under() as world:
        async with inside(world.rooms, "ana", "hall/a") as client:
            await world.ana.send("told", 1)
            assert await told(client, 1) == [1]
            await client.drop()
        async with inside(world.rooms, "ana", "hall/a", resume=client):
            await trio.sleep(1)
            assert await world.ana.waiting() == 0


async def test_a_caller_that_is_cancelled_only_stops_waiting(autojump_clock: MockClock) -> None:
    """What it sent was handed over before it waited."""
    async with under() as world:
        held = world.store.hold_posts()
        with trio.move_on_after(1) as scope:
            await world.ana.send("told", 1)
        assert scope.cancelled_caught
        held.release()
        await world.rest()
        assert await world.ana.waiting() == 1


async def test_what_the_store_has_no_room_for_reaches_nobody(autojump_clock: MockClock) -> None:
    """The caller is told so, and what comes later goes on."""
    async with under() as world, inside(world.rooms, "ana") as client:
        world.store.fail_posts(StoreFull("it is full"))
        with pytest.raises(StoreFull):
            await world.ana.send("told", 1)
        assert (await world.ana.send("told", 2)).reached == 1
        assert await told(client, 1) == [2]
        await nothing(client)


@pytest.mark.parametrize("applied", [False, True])
async def test_what_may_be_kept_is_sent_once_more_until_that_is_known(
    applied: bool, autojump_clock: MockClock
) -> None:
    """And arrives once."""
    async with under() as world, inside(world.rooms, "ana") as client:
        world.store.fail_posts(StoreError("no answer"), times=3, applied=applied)
        assert (await world.ana.send("told", 1)).reached == 1
        assert await told(client, 1) == [1]
        await nothing(client)
        assert await world.ana.waiting() == 1


async def test_an_inbox_that_cannot_be_read_is_read_later(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is sent meanwhile waits there, too."""
    async with under() as world:
        await world.ana.send("told", 1)
        world.store.fail_reads(StoreError("it cannot be read"), key="ana")
        async with inside(world.rooms, "ana") as client:
            await trio.sleep(1)
            assert await world.ana.send("told", 2) == Sent(stored=1)
            assert await told(client, 2) == [1, 2]
            assert "cannot be read" in caplog.text


async def test_who_waits_at_the_stop_is_told_so(autojump_clock: MockClock) -> None:
    """What becomes of a message whose store does not answer is not known."""
    store = FaultyStore(MemoryStore())
    async with trio.open_nursery() as nursery:
        async with under(store) as world:
            held = store.hold_posts()
            post = Post(nursery, partial(world.ana.send, "told", 1))
            await held.wait_arrived()
            nursery.start_soon(_release_later, held)
        await post.over.wait()
        assert isinstance(post.error, RoomsClosed)
        with pytest.raises(RoomsClosed):
            await world.ana.send("told", 2)


async def _release_later(held: Any) -> None:
    await trio.sleep(6)
    held.release()


async def test_what_was_acknowledged_and_not_removed_yet_comes_to_nobody(autojump_clock: MockClock) -> None:
    """Although it is in the inbox still; and the removal is tried until it succeeds."""
    async with under() as world:
        await world.ana.send("told", 1)
        world.store.fail_settles(StoreError("not now"), times=2)
        async with inside(world.rooms, "ana") as client:
            assert await told(client, 1) == [1]
            await client.acknowledge()
            await client.hang_up()
        async with inside(world.rooms, "ana", "den/b") as other:
            assert await world.ana.waiting() == 0
            await nothing(other)
        await world.rest()
        assert (await world.store.inbox_size("ana")).count == 0


async def test_a_full_inbox_drops_the_oldest_of_the_least_priority(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The new one, if there is nothing else that may go; the log says so once."""
    caplog.set_level(logging.WARNING)
    async with under() as world:
        world.rooms._supervisor.users.office.inboxes._most = 3
        for number, priority in enumerate(["high", "low", "normal", "low"]):
            sent = await world.ana.send("told", number, priority=priority)  # type: ignore[arg-type]
            assert sent == Sent(stored=1)
        assert await world.ana.send("told", 4, priority="high") == Sent(stored=1)
        assert await world.ana.send("told", 5, priority="low") == Sent(dropped=1)
        async with inside(world.rooms, "ana") as client:
            assert await told(client, 3) == [0, 2, 4]
            assert await world.ana.send("told", 6, priority="high") == Sent(dropped=1)
            await nothing(client)
        assert world.rooms.statistics().users.dropped == 4
        assert caplog.text.count("is full") == 1


async def test_a_session_goes_on_with_what_it_was_offered_before_a_restart(autojump_clock: MockClock) -> None:
    """To it alone while it may come back; what it has seen, and nobody noted, is removed then."""
    store = FaultyStore(MemoryStore())
    async with under(store) as world, inside(world.rooms, "ana", "hall/a") as client:
        for number in range(3):
            await world.ana.send("told", number)
        assert await told(client, 2) == [0, 1]
        await client.drop()
    async with under(store) as world, inside(world.rooms, "ana", "den/b") as other:
        await world.ana.send("told", 3)
        assert await told(other, 1) == [3]
        await other.acknowledge()
        async with inside(world.rooms, "ana", "hall/a", resume=client) as again:
            assert await told(again, 1) == [2]
            await world.rest()
            assert await world.ana.waiting() == 1
            await again.acknowledge()
            await trio.sleep(1)
            assert await world.ana.waiting() == 0
            await nothing(other)


async def test_a_room_that_is_destroyed_gives_back_what_its_sessions_had(autojump_clock: MockClock) -> None:
    """Connections of other rooms get it, or whoever comes."""
    async with under() as world:
        async with inside(world.rooms, "ana", "hall/a") as client:
            await world.ana.send("told", 1)
            assert await told(client, 1) == [1]
            await client.drop()
        await world.rooms.get("hall", "a").destroy()
        async with inside(world.rooms, "ana") as other:
            assert await told(other, 1) == [1]
            await other.acknowledge()
        await soon(lambda: not world.rooms._supervisor.users.office.busy)
        assert not world.rooms._supervisor.users.office.offers._outs


async def test_so_much_for_one_user_has_to_wait(autojump_clock: MockClock) -> None:
    """Then its sender waits, and is not cancelled in vain."""
    async with under() as world, trio.open_nursery() as nursery:
        held = world.store.hold_posts()
        posts = [Post(nursery, partial(world.ana.send, "told", "x" * 100_000)) for _ in range(20)]
        await held.wait_arrived()
        await trio.sleep(1)
        assert world.rooms.statistics().users.sent < 15
        held.release()
        for post in posts:
            await post.over.wait()
        assert sum(post.sent.stored for post in posts if post.sent is not None) >= 10


async def test_a_session_that_another_connection_takes_keeps_what_it_was_sent(
    autojump_clock: MockClock,
) -> None:
    """A client comes back before it is noticed that it was gone: nothing of it is given back."""
    async with under() as world, inside(world.rooms, "ana") as client:
        await client.emit("say", "the room is awake, and writes what it sends later")
        await told(client, 1)
        for number in range(3):
            assert (await world.ana.send("told", number)).active == 1
        async with inside(world.rooms, "ana", resume=client) as again:
            assert await told(again, 3) == [0, 1, 2]
            await nothing(again)
            assert world.rooms.statistics().users.given_back == 0
            await again.acknowledge()
            await trio.sleep(1)
            assert await world.ana.waiting() == 0


async def test_what_is_in_an_inbox_is_not_refused(autojump_clock: MockClock) -> None:
    """Although it cannot be read for which message there is no room."""
    async with under() as world:
        world.rooms._supervisor.users.office.inboxes._most = 2
        for number in range(2):
            await world.ana.send("told", number)
        world.store.fail_reads(StoreError("it cannot be read"), key="ana")
        assert await world.ana.send("told", 2) == Sent(stored=1)
        assert await world.ana.waiting() == 3
        await world.ana.send("told", 3)
        await world.rest()
        assert await world.ana.waiting() == 2


async def test_who_comes_while_messages_are_worked_off_gets_them_in_order(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many that are sent at once hold nobody up, and so she may come in between."""
    monkeypatch.setattr("trio_rooms._users.office.TURN", -1)
    async with under() as world, trio.open_nursery() as nursery:
        held = world.store.hold_posts()
        posts = []
        for number in range(100):
            posts.append(Post(nursery, partial(world.ana.send, "told", number)))
            await trio.testing.wait_all_tasks_blocked()
        held.release()
        while not any(post.sent for post in posts[1:]):
            await trio.lowlevel.checkpoint()
        assert not all(post.sent for post in posts)
        async with inside(world.rooms, "ana") as client:
            assert await told(client, 100) == [*range(100)]
            await nothing(client)


class _Elsewhere(MemoryStore):
    """Has some messages on their way to sessions of other rooms, which nobody knows any more."""

    async def inbox(self, user: str, *, after: int = 0, limit: int | None = None) -> list[Waiting]:
        return [
            attrs.evolve(row, offer=Offer(user, f"den/{row.position}", 1, 1)) if row.position % 2 else row
            for row in await super().inbox(user, after=after, limit=limit)
        ]


async def test_who_comes_again_while_her_inbox_is_read_gets_all_of_it_in_order(
    autojump_clock: MockClock,
) -> None:
    """Also what was passed over meanwhile, since she was not there."""
    store = FaultyStore(_Elsewhere())
    async with under(store) as world:
        for number in range(4):
            await world.ana.send("told", number)
        first, second = store.hold_reads("den/1"), store.hold_reads("den/3")
        async with inside(world.rooms, "ana", "hall/a"):
            await first.wait_arrived()
        await soon(lambda: not world.ana.online)
        first.release()
        await second.wait_arrived()
        async with inside(world.rooms, "ana") as client:
            second.release()
            assert await told(client, 4) == [0, 1, 2, 3]
