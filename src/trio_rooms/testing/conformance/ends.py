"""What is left of a room."""

from __future__ import annotations

from trio_rooms.errors import StaleWrite
from trio_rooms.stores.base import (
    Commit,
    LinkHalf,
    RoomHead,
    Store,
    StoredSession,
    StoredSnapshot,
    Timer,
    Verdict,
)

from .support import OPENED, following, loaded, put, raises, sent

__all__ = ["Ends"]


class Ends:
    """When a room ends, and what is left of it."""

    async def test_a_room_without_anything_has_no_key(self, store: Store) -> None:
        """A room goes with the last name of its storage; writing nothing makes none; numbers go on."""
        async with store:
            await put(store, "chat/1", 1, writes={"a": b"1"})
            await put(store, "chat/1", 2, writes={"a": None})
            await put(store, "chat/2", 1, writes={"a": None})
            await put(store, "chat/3", 1)
            assert await store.keys() == []
            for key, number in (("chat/1", 2), ("chat/2", 1), ("chat/3", 1)):
                assert await loaded(store, key) == (number, ())
                with raises(StaleWrite):
                    await put(store, key, number + 2, b"stale")
                await put(store, key, number + 1, writes={"b": b"1"})
                assert await loaded(store, key) == (number + 1, ())
            assert await store.keys() == ["chat/1", "chat/2", "chat/3"]

    async def test_destroy_removes_everything(self, store: Store) -> None:
        """Destroying a room removes its snapshots and its storage, and nothing of any other room."""
        async with store:
            for key in ("chat/1", "chat/10"):
                await put(store, key, 1, b"one", {"a": b"1"})
                await put(store, key, 2, b"two", {"b": b"2"})
            await put(store, "chat/1", 3, destroy=True)
            assert await loaded(store, "chat/1") == (3, ())
            assert await store.list("chat/1") == []
            assert await store.keys() == ["chat/10"]
            assert len((await store.load("chat/10")).snapshots) == 2

    async def test_numbers_go_on_after_destroy(self, store: Store) -> None:
        """A destroyed room that begins again, with a snapshot or with storage, has the next number."""
        async with store:
            for number in (1, 4, 7):
                await put(store, "chat/1", number, b"one", {"a": b"1"})
                await put(store, "chat/1", number + 1, destroy=True)
                for stale in (1, number, number + 3):
                    with raises(StaleWrite):
                        await put(store, "chat/1", stale, b"one", {"a": b"1"})
                assert await loaded(store, "chat/1") == (number + 1, ())
                if number == 4:
                    await put(store, "chat/1", 6, b"again")
                    snapshots: tuple[StoredSnapshot, ...] = (StoredSnapshot(6, b"again"),)
                else:
                    await put(store, "chat/1", number + 2, writes={"b": b"2"})
                    snapshots = ()
                    assert await store.list("chat/1") == [("b", b"2")]
                assert await loaded(store, "chat/1") == (number + 2, snapshots)
                assert await store.keys() == ["chat/1"]

    async def test_what_is_left_of_an_ended_room_fences_or_goes(self, store: Store) -> None:
        """Opened again, the store has the number of an ended room or none; earlier owners are stale."""
        async with store:
            await put(store, "chat/1", 1, b"one")
            await put(store, "chat/1", 2, destroy=True)
        async with store:
            number, snapshots = await loaded(store, "chat/1")
            assert number in {0, 2}
            assert snapshots == ()
            with raises(StaleWrite):
                await store.commit(Commit("chat/1", number + 1, 1, b"stale"))
            await put(store, "chat/1", number + 1, b"again")
            assert (await store.head("chat/1")).number == number + 1

    async def test_destroying_what_is_not_there_counts(self, store: Store) -> None:
        """A room that does not exist can be destroyed."""
        async with store:
            await put(store, "chat/1", 1, destroy=True)
            await put(store, "chat/1", 2, destroy=True)
            assert await store.keys() == []
            assert await loaded(store, "chat/1") == (2, ())

    async def test_a_room_lives_by_anything(self, store: Store) -> None:
        """A room with a journal, a session or a timer and nothing else has a key, and goes with it."""
        async with store:
            for key, begun, over in (
                ("chat/journal", {"entries": sent(1), "seq": 1}, {"trim": 1}),
                ("chat/session", {"sessions": {1: OPENED}}, {"sessions": {1: None}}),
                ("chat/timer", {"timers": {"a": Timer(None, b"")}}, {"timers": {"a": None}}),
            ):
                first = Commit(key, 1, store.epoch, **begun)
                await store.commit(first)
                await store.commit(first)
                await store.commit(Commit(key, 2, store.epoch))
                assert await store.keys(key) == [key]
                last = Commit(key, 3, store.epoch, **over)
                await store.commit(last)
                assert await store.keys(key) == []
                head = await store.head(key)
                assert head == RoomHead(3, last.nonce, store.epoch)
                await store.commit(last)
                with raises(StaleWrite):
                    await store.commit(Commit(key, 3, store.epoch, **over))
                await store.commit(Commit(key, 4, store.epoch, **begun))
                assert await store.keys(key) == [key]
            await store.commit(Commit("chat/seq", 1, store.epoch, seq=7))
            assert await store.keys("chat/seq") == []

    async def test_destroy_removes_all(self, store: Store) -> None:
        """Of journal, sessions, verdicts and timers nothing is left, of another room everything."""
        async with store:
            for key in ("chat/1", "chat/2"):
                await store.commit(
                    Commit(
                        key,
                        1,
                        store.epoch,
                        b"one",
                        {"a": b"1"},
                        sent(1, 2),
                        2,
                        sessions={1: OPENED, 2: OPENED},
                        links={1: LinkHalf(0, 2.0, 1), 2: LinkHalf(0, None, ended=True)},
                        verdicts=(Verdict(1, 1, b""),),
                        timers={"a": Timer(1.0, b"")},
                    )
                )
            destroy = following(store, 2, destroy=True)
            await store.commit(destroy)
            assert await store.keys() == ["chat/2"]
            assert await store.head("chat/1") == RoomHead(2, destroy.nonce, store.epoch)
            expected = (2, 2, {1: 1}, {1: b""}, ["a"], 1)
            for key, left in (("chat/1", (0, 0, {}, {}, [], 0)), ("chat/2", expected)):
                assert (
                    len(await store.journal(key, 0, 99, 99)),
                    len(await store.sessions(key)),
                    await store.positions(key),
                    await store.verdicts(key, 1),
                    [name for name, _ in await store.timers(key)],
                    len(await store.sessions(key, ended=True)),
                ) == left
            assert {one.key for one in await store.due(10, 10)} == {"chat/2"}
            # It begins again with nothing of what it was.
            await store.commit(following(store, 3, sessions={1: OPENED}, entries=sent(1), seq=1))
            assert await store.session("chat/1", 1) == StoredSession(1, OPENED, LinkHalf(0, None))
            assert await store.verdicts("chat/1", 1) == {}
            head = await store.head("chat/1")
            assert (head.seq, head.entries, head.has_timers) == (1, 1, False)
            # Nor has another one, where a store gives its place to that.
            await store.commit(Commit("chat/1", 4, store.epoch, destroy=True))
            await store.commit(Commit("chat/2", 2, store.epoch, destroy=True))
            for key in ("chat/3", "chat/4"):
                await store.commit(Commit(key, 1, store.epoch, b"one", sessions={1: OPENED}))
                assert await store.verdicts(key, 1) == {}
                assert await store.list(key) == []
                assert await loaded(store, key) == (1, (StoredSnapshot(1, b"one"),))
