"""Sessions, their verdicts, and what an opening does to them."""

from __future__ import annotations

import math

from trio_rooms._loop.wall import WallClock
from trio_rooms.stores.base import Due, LinkHalf, Opening, RoomHalf, Store, StoredSession, Verdict

from .support import OPENED, following

__all__ = ["Sessions"]


class Sessions:
    """Who has a session, and what was answered."""

    async def test_a_session_has_two_halves(self, store: Store) -> None:
        """Each is written without the other; the opening stays where it is not given."""
        opening = Opening(b"token", "\u00e9va", 7, 120.0)
        other = Opening(b"", None, 0, 0.0)
        async with store:
            await store.commit(
                following(
                    store,
                    1,
                    sessions={2**60: RoomHalf(0, None, b"", opening), 1: RoomHalf(5, b"", b"c", other)},
                    links={1: LinkHalf(3, None)},
                )
            )
            expected = StoredSession(2**60, RoomHalf(0, None, b"", opening), LinkHalf(0, None))
            assert await store.session("chat/1", 2**60) == expected
            first = StoredSession(1, RoomHalf(5, b"", b"c", other), LinkHalf(3, None))
            assert await store.sessions("chat/1") == [first, expected]
            assert (await store.head("chat/1")).has_sessions
            await store.commit(following(store, 2, b"two", sessions={2**60: RoomHalf(9, b"a", b"news")}))
            away = LinkHalf(0, 1e9 + 0.25, 8, b"left", ended=False)
            await store.commit(following(store, 3, links={2**60: away}))
            expected = StoredSession(2**60, RoomHalf(9, b"a", b"news", opening), away)
            assert await store.session("chat/1", 2**60) == expected
            assert await store.session("chat/1", 1) == first
            await store.commit(following(store, 4, sessions={1: RoomHalf(6, None, b"", opening)}))
            sixth = StoredSession(1, RoomHalf(6, None, b"", opening), LinkHalf(3, None))
            assert await store.session("chat/1", 1) == sixth
            # A lower id than was handled says that whoever writes has not read it.
            await store.commit(following(store, 5, sessions={1: RoomHalf(0, None, b"")}))
            assert await store.session("chat/1", 1) == sixth
            await store.commit(following(store, 6, sessions={1: RoomHalf(2, None, b"", opening)}))
            assert await store.session("chat/1", 1) == sixth
        async with store:
            assert await store.session("chat/1", 2**60) == expected
            assert await store.session("chat/2", 2**60) is None
            assert await store.session("chat/1", 2) is None

    async def test_what_is_of_no_session_is_not_written(self, store: Store) -> None:
        """Halves and verdicts of a session that there is not, also where it goes with the same commit."""
        session, gone = RoomHalf(1, None, b""), RoomHalf(1, None, b"", Opening(b"", None, 0, 1.0))
        verdicts = tuple(Verdict(sid, 1, b"") for sid in (1, 2, 3))
        async with store:
            await store.commit(following(store, 1, b"one", sessions={3: gone}))
            away = LinkHalf(0, 1.0, 1)
            await store.commit(
                following(
                    store,
                    2,
                    sessions={1: session, 3: None},
                    links={1: away, 2: away, 3: away},
                    verdicts=verdicts,
                )
            )
            assert await store.sessions("chat/1") == []
            assert await store.positions("chat/1") == {}
            assert await store.due(10, 10) == []
            await store.commit(following(store, 3, sessions={1: gone, 2: gone, 3: gone}))
            for sid in (1, 2, 3):
                assert await store.verdicts("chat/1", sid) == {}
                assert (await store.sessions("chat/1"))[sid - 1].link == LinkHalf(0, None)
            await store.commit(following(store, 4, verdicts=verdicts[:1], sessions={2: None}))
            assert await store.verdicts("chat/1", 1) == {1: b""}

    async def test_sessions_are_listed_in_pages(self, store: Store) -> None:
        """They come by id, behind one, so many at most; with ``ended`` only those that are over."""
        opened = RoomHalf(0, bytes(1000), b"", Opening(b"", None, 0, 1.0))
        sids = [7**n for n in range(1, 22)] + [*range(10**9, 10**9 + 200)]
        over = {sid: LinkHalf(0, None, ended=True) for sid in sids[::3]}
        async with store:
            await store.commit(
                following(store, 1, sessions=dict.fromkeys(reversed(sids), opened), links=over)
            )
            assert [one.sid for one in await store.sessions("chat/1")] == sorted(sids)
            assert [one.sid for one in await store.sessions("chat/1", ended=True)] == sorted(over)
            for wanted, ended in ((sorted(sids), False), (sorted(over), True)):
                for after, limit in ((0, 1), (7, 3), (7**5, 100), (2**62, 5), (0, 0), (1, 2**40)):
                    found = await store.sessions("chat/1", after=after, limit=limit, ended=ended)
                    assert [one.sid for one in found] == [sid for sid in wanted if sid > after][:limit]
            assert await store.sessions("chat/2") == []
            await store.commit(following(store, 2, links={sids[0]: LinkHalf(1, None)}))
            assert sids[0] not in [one.sid for one in await store.sessions("chat/1", ended=True)]

    async def test_a_session_goes_with_its_verdicts(self, store: Store) -> None:
        """Deleted it is nowhere any more, and one with its id that begins later is another."""
        async with store:
            await store.commit(
                following(
                    store,
                    1,
                    b"one",
                    sessions={1: OPENED, 2: OPENED},
                    links={1: LinkHalf(0, 5.0, 3), 2: LinkHalf(0, 6.0, 3)},
                    verdicts=(Verdict(1, 1, b"a"), Verdict(2, 1, b"b")),
                )
            )
            await store.commit(following(store, 2, sessions={1: None, 77: None}))
            assert await store.session("chat/1", 1) is None
            assert await store.verdicts("chat/1", 1) == {}
            assert await store.positions("chat/1") == {3: 1}
            assert await store.due(10, 10) == [Due(6.0, "chat/1", sid=2)]
            assert await store.verdicts("chat/1", 2) == {1: b"b"}
            await store.commit(following(store, 3, sessions={1: OPENED}))
            assert await store.session("chat/1", 1) == StoredSession(1, OPENED, LinkHalf(0, None))
            assert await store.verdicts("chat/1", 1) == {}
            await store.commit(following(store, 4, sessions={1: None, 2: None}))
            head = await store.head("chat/1")
            assert (head.number, head.has_sessions) == (4, False)

    async def test_verdicts_are_replaced_and_go(self, store: Store) -> None:
        """They come by id; a later one of an id takes its place; those that were answered go first."""
        async with store:
            verdicts = tuple(Verdict(1, id_, b"%d" % id_) for id_ in (3, 1, 2, 1000))
            await store.commit(following(store, 1, sessions={1: OPENED, 2: OPENED}, verdicts=verdicts))
            assert await store.verdicts("chat/1", 1) == {1: b"1", 2: b"2", 3: b"3", 1000: b"1000"}
            assert [*await store.verdicts("chat/1", 1)] == [1, 2, 3, 1000]
            assert await store.verdicts("chat/1", 2) == {}
            again = (Verdict(1, 2, b"other"), Verdict(2, 2, bytes(100_000)))
            await store.commit(following(store, 2, b"two", verdicts=again))
            assert (await store.verdicts("chat/1", 1))[2] == b"other"
            assert await store.verdicts("chat/1", 2) == {2: bytes(100_000)}
            await store.commit(
                following(store, 3, answered={1: 2, 2: 5, 9: 1}, verdicts=(Verdict(1, 1, b"new"),))
            )
            assert await store.verdicts("chat/1", 1) == {1: b"new", 3: b"3", 1000: b"1000"}
            assert await store.verdicts("chat/1", 2) == {}
            many = tuple(Verdict(1, id_, b"") for id_ in range(2000, 2500))
            await store.commit(following(store, 4, verdicts=many, answered={1: 1000}))
            assert [*await store.verdicts("chat/1", 1)] == [*range(2000, 2500)]

    async def test_positions_are_counted(self, store: Store) -> None:
        """Those of sessions that are away and not over; 0 holds nothing."""
        links = {sid: LinkHalf(0, 9.0, 3 + sid % 3) for sid in range(1, 301)} | {
            301: LinkHalf(0, 9.0, 0),
            302: LinkHalf(5, None, 3),
            303: LinkHalf(0, 9.0, 3, ended=True),
            304: LinkHalf(0, 9.0, 3),
        }
        async with store:
            assert await store.positions("chat/1") == {}
            await store.commit(
                following(store, 1, sessions=dict.fromkeys([*links, 305], OPENED), links=links)
            )
            assert await store.positions("chat/1") == {3: 101, 4: 100, 5: 100}
            assert [*await store.positions("chat/1")] == [3, 4, 5]
            back = {sid: LinkHalf(sid, None) for sid in range(1, 301)} | {304: LinkHalf(0, 9.0, 8)}
            await store.commit(following(store, 2, links=back))
            assert await store.positions("chat/1") == {8: 1}
            assert await store.positions("chat/2") == {}

    async def test_an_opening_gives_connections_up(self, store: Store) -> None:
        """Whoever had one, or was not told of one yet, is away for its window; the rest stays as it was."""
        wall = WallClock()
        windows = {1: 100.0, 2: 5.0, 3: 50.0, 4: 50.0, 5: 60.0}
        sessions = {
            sid: RoomHalf(0, b"a", b"c", Opening(b"t", None, 10 * sid, window))
            for sid, window in windows.items()
        }
        away, over = LinkHalf(0, 5.5, 7, b"gone"), LinkHalf(0, None, 7, ended=True)
        links = {1: LinkHalf(11, None, 0), 2: LinkHalf(12, None, 3, b"x"), 3: away, 4: over}
        async with store:
            await store.commit(following(store, 1, sessions=sessions, links=links, seq=30, floor=15))
        before = wall.now()
        async with store:
            after = wall.now()
            assert await store.session("chat/1", 3) == StoredSession(3, sessions[3], away)
            assert await store.session("chat/1", 4) == StoredSession(4, sessions[4], over)
            for sid, pos, left in ((1, 11, b""), (2, 21, b"x"), (5, 51, b"")):
                session = await store.session("chat/1", sid)
                assert session is not None
                assert session.room == sessions[sid]
                until = session.link.until
                assert until is not None
                assert before + windows[sid] - 0.01 <= until <= after + windows[sid] + 0.01
                assert session.link == LinkHalf(0, until, pos, left)
            assert await store.positions("chat/1") == {7: 1, 11: 1, 21: 1, 51: 1}
            assert [one.sid for one in await store.due(math.inf, 10)] == [3, 2, 5, 1]
            assert await store.due(6, 10) == [Due(5.5, "chat/1", sid=3)]
            await store.commit(following(store, 2, links={1: LinkHalf(1, None)}))
        async with store:
            assert [one.sid for one in await store.due(math.inf, 2)] == [3, 2]
