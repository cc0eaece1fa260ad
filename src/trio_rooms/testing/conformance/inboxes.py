"""Inboxes: what waits for users, and to whom it was offered."""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs
import trio

from trio_rooms.errors import StaleWrite
from trio_rooms.stores.base import (
    Commit,
    Due,
    InboxSize,
    LinkHalf,
    Offer,
    Post,
    Store,
    Timer,
    Waiting,
)

from .support import NAMES, OPENED, following, raises, selected

__all__ = ["Inboxes"]

EXPIRES = 1e9 + 0.123456
"""A time that needs most of the digits of a double."""


def post(user: str, id_: int, size: int = 1, expires: float = EXPIRES, priority: int = 1) -> Post:
    """A message for a user."""
    return Post(user, id_, bytes([id_ % 256]) * size, expires, priority)


def size_of(found: Iterable[Waiting]) -> InboxSize:
    """How much an inbox has with these in it."""
    found = list(found)
    return InboxSize(len(found), sum(len(one.post.body) + 50 for one in found))


class Inboxes:
    """Messages for users: put in by posts and commits, offered, settled, expired."""

    async def test_messages_wait_in_order(self, store: Store) -> None:
        """They come back as they were posted, also after the next opening, and in pages."""
        posts = [
            Post("zo\u00eb", 2**63 - 1, b"", EXPIRES, 0, "chat/\u00e9\0"),
            Post("zo\u00eb", 7, b"\xff" * 100_000, -5.25, 2),
            *(post("zo\u00eb", id_) for id_ in range(1000, 900, -1)),
        ]
        async with store:
            sizes = await store.post([*posts, post("ana", 7)])
            assert sizes == {"zo\u00eb": InboxSize(102, 100_100 + 102 * 50), "ana": InboxSize(1, 51)}
            found = await store.inbox("zo\u00eb")
            assert [one.post for one in found] == posts
            assert [one.offer for one in found] == [None] * 102
            places = [one.position for one in found]
            assert places == sorted({*places})
            assert places[0] > 0
            for after, limit in (
                (0, 0),
                (0, 1),
                (0, 3),
                (places[2], 5),
                (places[50], 2**40),
                (places[-1], 9),
            ):
                behind = [one for one in found if one.position > after]
                assert await store.inbox("zo\u00eb", after=after, limit=limit) == behind[:limit]
            assert await store.inbox_size("zo\u00eb") == size_of(found)
            assert await store.inbox("nobody") == []
            assert await store.inbox_size("nobody") == InboxSize(0, 0)
            assert await store.post([]) == {}
        async with store:
            assert await store.inbox("zo\u00eb") == found
            assert await store.inbox_size("zo\u00eb") == size_of(found)
            # Whoever has an inbox is no room.
            assert await store.keys() == []

    async def test_the_same_message_again_is_not_stored_twice(self, store: Store) -> None:
        """An id that she has already changes nothing; once it is settled, it is another message."""
        async with store:
            first = post("ana", 1)
            await store.post([first, post("ana", 2)])
            again = [post("ana", 2, 9), post("ana", 3), post("ana", 3, 9), post("bo", 1)]
            assert await store.post(again) == {"ana": InboxSize(3, 153), "bo": InboxSize(1, 51)}
            found = await store.inbox("ana")
            assert [one.post for one in found] == [first, post("ana", 2), post("ana", 3)]
            await store.settle("ana", [1, 77])
            await store.post([attrs.evolve(first, body=b"later")])
            assert [one.post.id for one in await store.inbox("ana")] == [2, 3, 1]
            assert (await store.inbox("ana"))[-1].post.body == b"later"

    async def test_what_is_settled_is_gone(self, store: Store) -> None:
        """And its place is never given out again, also where nothing is left, and after the next opening."""
        async with store:
            await store.post([*(post("ana", id_, id_) for id_ in range(1, 11)), post("bo", 5)])
            before = await store.inbox("ana")
            await store.settle("ana", {3, 4, 10, 11})
            await store.settle("nobody", [1])
            await store.settle("ana", [])
            left = [one for one in before if one.post.id not in {3, 4, 10}]
            assert await store.inbox("ana") == left
            assert await store.inbox_size("ana") == size_of(left)
            assert await store.inbox_size("bo") == InboxSize(1, 51)
            await store.settle("ana", [one.post.id for one in left])
            assert await store.inbox("ana") == []
            assert await store.inbox_size("ana") == InboxSize(0, 0)
            assert [user for user, _ in await store.inboxes()] == ["bo"]
            await store.settle("bo", [5])
        async with store:
            await store.post([post("ana", 1)])
            (later,) = await store.inbox("ana")
            assert later.position > before[-1].position

    async def test_posts_outlive_their_callers(self, store: Store) -> None:
        """Handed over before the first checkpoint, in their order, and carried out though cancelled."""
        async with store:
            with trio.CancelScope() as scope:
                scope.cancel()
                await store.post([post("ana", 1), post("ana", 2)])
            with trio.CancelScope() as scope:
                scope.cancel()
                await store.settle("ana", [1])
            await store.post([post("ana", 3)])
            assert [one.post.id for one in await store.inbox("ana")] == [2, 3]
            await store.settle("ana", [3])
            assert [one.post.id for one in await store.inbox("ana")] == [2]

    async def test_a_commit_sends_exactly_once(self, store: Store) -> None:
        """Its messages come with it, in order, not with one that is refused, nor when it is repeated."""
        sends = (post("ana", 2), post("bo", 1), post("ana", 1, priority=2))
        async with store:
            await store.post([post("ana", 9)])
            first = following(store, 1, b"one", sends=sends)
            await store.commit(first)
            assert [one.post.id for one in await store.inbox("ana")] == [9, 2, 1]
            assert await store.inbox_size("ana") == InboxSize(3, 153)
            await store.settle("ana", [2])
            await store.commit(first)
            with raises(StaleWrite):
                await store.commit(following(store, 1, b"another", sends=(post("bo", 7),)))
            with raises(StaleWrite):
                await store.commit(following(store, 3, b"later", sends=(post("bo", 7),)))
            assert [one.post.id for one in await store.inbox("ana")] == [9, 1]
            assert [one.post.id for one in await store.inbox("bo")] == [1]
            # What a room has sent stays when it goes, and it can say farewell.
            await store.commit(following(store, 2, destroy=True, sends=(post("bo", 2),)))
            assert [one.post.id for one in await store.inbox("bo")] == [1, 2]
            assert await store.keys() == []
            # Who sends and keeps nothing does not exist.
            await store.commit(following(store, 3, sends=(post("bo", 3),)))
            assert await store.keys() == []
            assert (await store.head("chat/1")).number == 3
        async with store:
            assert [one.post.id for one in await store.inbox("bo")] == [1, 2, 3]

    async def test_offers_are_written_with_commits(self, store: Store) -> None:
        """The last one counts; one of a message that is not there is not written; settled it is gone."""
        first = Offer("ana", "chat/1", 5, 9)
        async with store:
            await store.post([post("ana", 1), post("ana", 2), post("bo", 1)])
            offers = {1: first, 3: first, 4: Offer("nobody", "chat/1", 5, 9)}
            await store.commit(following(store, 1, b"one", offers=offers))
            assert [one.offer for one in await store.inbox("ana")] == [first, None]
            assert [one.offer for one in await store.inbox("bo")] == [None]
            assert await store.inbox("nobody") == []
            second = Offer("ana", "game/\u00e9", 2**60, 2**62)
            sent = Offer("ana", "chat/1", 5, 10)
            together = following(store, 2, b"two", offers={1: second, 8: sent}, sends=(post("ana", 8),))
            await store.commit(together)
            assert [one.offer for one in await store.inbox("ana")] == [second, None, sent]
            assert (await store.inbox("ana"))[0].post == post("ana", 1)
            # A message that is posted again keeps where it is on its way to; so it does as the room goes.
            await store.post([post("ana", 1)])
            await store.commit(following(store, 3, destroy=True))
        async with store:
            assert [one.offer for one in await store.inbox("ana")] == [second, None, sent]
            await store.settle("ana", [1])
            await store.post([post("ana", 1)])
            assert [one.offer for one in await store.inbox("ana")] == [None, sent, None]

    async def test_inboxes_are_listed_by_user(self, store: Store) -> None:
        """Those with something in them, by code point, in pages."""
        async with store:
            assert await store.inboxes() == []
            await store.post([post(user, 1, number) for number, user in enumerate(reversed(NAMES))])
            found = await store.inboxes()
            assert [user for user, _ in found] == sorted(NAMES)
            assert dict(found) == {
                user: InboxSize(1, number + 50) for number, user in enumerate(reversed(NAMES))
            }
            for after, limit in ((None, 0), (None, 2), ("a\0", 3), ("behind", 2**40), ("\U0010ffffb", 1)):
                users = [user for user, _ in await store.inboxes(after=after, limit=limit)]
                assert users == selected(NAMES, "", after, limit)

    async def test_what_has_expired_comes_in_order(self, store: Store) -> None:
        """The longest first, of all users, in pages, until it is settled."""
        async with store:
            assert await store.expired(math.inf, 1) == []
            posts = [
                post(f"user {number % 7}", number + 1, number, float(number * 11 % 30))
                for number in range(200)
            ]
            await store.post(posts)
            waiting = [one for number in range(7) for one in await store.inbox(f"user {number}")]
            expected = sorted(waiting, key=lambda one: (one.post.expires, one.position))
            assert len(expected) == 200
            for limit in (1, 7, 64, 256):
                pages: list[Waiting] = []
                after = None
                while page := await store.expired(math.inf, limit, after=after):
                    assert len(page) <= limit
                    pages += page
                    after = (page[-1].post.expires, page[-1].post.user, page[-1].position)
                assert pages == expected
            due = [one for one in expected if one.post.expires <= 4]
            assert await store.expired(4.0, 1000) == due
            assert await store.expired(3.99, 1000) == [one for one in due if one.post.expires < 4]
            assert await store.expired(-1, 1000) == []
            assert (await store.expired(math.inf, 1)) == expected[:1]
            # What is not there any more still says where to go on.
            last = expected[99]
            for user in {one.post.user for one in expected[:100]}:
                await store.settle(user, [one.post.id for one in expected[:100] if one.post.user == user])
            gone = (last.post.expires, last.post.user, last.position)
            assert await store.expired(math.inf, 1000, after=gone) == expected[100:]
            assert await store.expired(math.inf, 1000) == expected[100:]
        async with store:
            assert await store.expired(math.inf, 1000) == expected[100:]

    async def test_presence_is_kept_with_a_connection(self, store: Store) -> None:
        """It is of the half that the connection writes, and stays when an opening gives that up."""
        async with store:
            links = {1: LinkHalf(7, None, presence=b"\xa0" * 1000), 2: LinkHalf(8, None)}
            await store.commit(following(store, 1, sessions={1: OPENED, 2: OPENED}, links=links))
            found = await store.sessions("chat/1")
            assert [one.link for one in found] == [links[1], links[2]]
        async with store:
            found = await store.sessions("chat/1")
            assert [one.link.presence for one in found] == [links[1].presence, b""]
            assert [one.link.link for one in found] == [0, 0]
            await store.commit(following(store, 2, links={1: LinkHalf(9, None)}))
            assert [one.link.presence for one in await store.sessions("chat/1")] == [b"", b""]

    async def test_rooms_lapse(self, store: Store) -> None:
        """When to look at a room is in its head, and due, until it is taken away or the room is gone."""
        async with store:
            await store.commit(following(store, 1, b"one", lapses=EXPIRES))
            await store.commit(Commit("chat/2", 1, store.epoch, b"one", lapses=5.0))
            at_five = {"timers": {"t": Timer(5.0, b"")}, "links": {1: LinkHalf(0, 5.0)}}
            for key in ("chat/3", "chat/4"):
                commit = Commit(key, 1, store.epoch, lapses=5.0, sessions={1: OPENED}, **at_five)  # type: ignore[arg-type]
                await store.commit(commit)
            assert (await store.head("chat/1")).lapses == EXPIRES
            assert (await store.load("chat/3")).head.lapses == 5.0
            assert (await store.head("chat/3")).has_timers
            found = await store.due(math.inf, 100)
            assert [(one.time, one.sid, one.timer, one.lapses) for one in found] == [
                *[(5.0, 1, None, False)] * 2,
                *[(5.0, None, "t", False)] * 2,
                *[(5.0, None, None, True)] * 3,
                (EXPIRES, None, None, True),
            ]
            assert found[-1] == Due(EXPIRES, "chat/1", lapses=True)
            assert {one.key for one in found[4:7]} == {"chat/2", "chat/3", "chat/4"}
            for limit in (1, 2, 3, 8):
                pages: list[Due] = []
                while page := await store.due(math.inf, limit, after=pages[-1] if pages else None):
                    pages += page
                assert pages == found
            assert await store.due(5.0, 100, after=found[5]) == found[6:7]
            assert await store.due(math.inf, 100, after=Due(5.0, "")) == found[7:]
            # Left as it is, changed, taken away; and it goes with the room.
            await store.commit(following(store, 2, b"two"))
            assert (await store.head("chat/1")).lapses == EXPIRES
            await store.commit(following(store, 3, b"three", lapses=7.0))
            assert (await store.head("chat/1")).lapses == 7.0
            await store.commit(Commit("chat/2", 2, store.epoch, lapses=0))
            assert (await store.head("chat/2")).lapses is None
            await store.commit(Commit("chat/3", 2, store.epoch, destroy=True))
            assert (await store.head("chat/3")).lapses is None
            # Where nothing else is left, it does not keep the room.
            gone = Commit("chat/4", 2, store.epoch, sessions={1: None}, timers={"t": None}, lapses=9.0)
            await store.commit(gone)
            assert await store.keys() == ["chat/1", "chat/2"]
            assert await store.due(math.inf, 100) == [Due(7.0, "chat/1", lapses=True)]
        async with store:
            assert await store.due(math.inf, 100) == [Due(7.0, "chat/1", lapses=True)]
            assert (await store.head("chat/1")).lapses == 7.0
