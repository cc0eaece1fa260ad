"""Timers, and what is due."""

from __future__ import annotations

import math

from trio_rooms.stores.base import Commit, Due, LinkHalf, Opening, RoomHalf, Store, Timer

from .support import NAMES, OPENED, following, selected, selections

__all__ = ["Timers"]


class Timers:
    """What is due, of one room and of all."""

    async def test_timers_are_kept_by_name(self, store: Store) -> None:
        """A later one of a name takes its place; they are listed as names are."""
        timers = {name: Timer(float(number), name.encode()) for number, name in enumerate(NAMES)}
        async with store:
            await store.commit(following(store, 1, timers=timers))
            assert (await store.head("chat/1")).has_timers
            for name in NAMES:
                assert await store.timer("chat/1", name) == timers[name]
            assert await store.timers("chat/1") == sorted(timers.items())
            for prefix, after, limit in selections():
                found = await store.timers("chat/1", prefix, after=after, limit=limit)
                assert [name for name, _ in found] == selected(NAMES, prefix, after, limit)
            never = Timer(None, b"\xff" * 100_000)
            await store.commit(following(store, 2, b"two", timers={"a": never, "b": None, "no": None}))
            assert await store.timer("chat/1", "a") == never
            assert await store.timer("chat/1", "b") is None
            assert await store.timers("chat/1", "b") == []
            assert await store.timer("chat/2", "a") is None
        async with store:
            assert await store.timers("chat/1", "a", limit=1) == [("a", never)]

    async def test_due_timers_of_a_room(self, store: Store) -> None:
        """The longest due comes first; one without a time never does."""
        timers = {f"{number:03}": Timer(1000.0 - number, b"") for number in range(300)}
        async with store:
            await store.commit(following(store, 1, timers=timers | {"never": Timer(None, b"")}))
            await store.commit(Commit("chat/2", 1, store.epoch, timers={"other": Timer(1.0, b"")}))
            assert await store.due_timers("chat/1", 700, 10) == []
            found = await store.due_timers("chat/1", 705, 10)
            assert found == [(f"{number:03}", timers[f"{number:03}"]) for number in range(299, 294, -1)]
            assert await store.due_timers("chat/1", 705, 2) == found[:2]
            names = [name for name, _ in await store.due_timers("chat/1", math.inf, 1000)]
            assert names == sorted(timers, reverse=True)
            await store.commit(following(store, 2, timers={"299": Timer(None, b""), "298": Timer(2e3, b"x")}))
            assert [name for name, _ in await store.due_timers("chat/1", 705, 10)] == ["297", "296", "295"]
            assert (await store.due_timers("chat/1", math.inf, 1000))[-1] == ("298", Timer(2e3, b"x"))

    async def test_what_is_due_comes_in_order(self, store: Store) -> None:
        """Sessions and timers of all rooms by their times, in pages, and what is next."""
        expected = []
        async with store:
            assert await store.due(math.inf, 1) == []
            for room in range(10):
                key = f"chat/{room}"
                links, timers = {}, {}
                for number in range(20):
                    time = float(number * 7 % 20)
                    links[number + 1] = LinkHalf(0, time, 1)
                    expected.append(Due(time, key, sid=number + 1))
                    timers[f"t{number}"] = Timer(time + 0.5 * (room % 2), b"")
                    expected.append(Due(time + 0.5 * (room % 2), key, timer=f"t{number}"))
                links |= {50: LinkHalf(1, None), 51: LinkHalf(0, 3.0, ended=True), 52: LinkHalf(0, None)}
                timers["never"] = Timer(None, b"")
                sessions = dict.fromkeys(links, OPENED)
                await store.commit(Commit(key, 1, store.epoch, sessions=sessions, links=links, timers=timers))
            found = await store.due(math.inf, 1000)
            assert [one.time for one in found] == sorted(one.time for one in expected)
            assert len(found) == len(expected)
            assert set(found) == set(expected)
            # Of one time sessions come first.
            assert sorted(found, key=lambda one: (one.time, one.timer is not None)) == found
            for limit in (1, 3, 64, 400):
                pages: list[Due] = []
                while page := await store.due(math.inf, limit, after=pages[-1] if pages else None):
                    assert len(page) <= limit
                    pages += page
                assert pages == found
            assert await store.due(4.9, 1000) == [one for one in found if one.time <= 4.9]
            assert await store.due(4.9, 1000, after=found[30]) == [
                one for one in found[31:] if one.time <= 4.9
            ]
            assert await store.due(-1, 1000) == []
            assert (await store.due(math.inf, 1))[0].time == 0
            # What is not there any more still says where to go on.
            gone = found[100]
            there = Commit(
                gone.key, 2, store.epoch, sessions=dict.fromkeys(range(1, 21)), timers={"t3": None}
            )
            await store.commit(there)
            kept = [one for one in found[101:] if one.key != gone.key or one.timer not in {None, "t3"}]
            assert await store.due(math.inf, 1000, after=gone) == kept

    async def test_what_is_due_is_read_a_page_at_a_time(self, store: Store) -> None:
        """Sessions and timers of all rooms by their times, also where many have the same one."""
        session = RoomHalf(0, None, b"", Opening(b"token", None, 0, 60.0))
        async with store:
            wanted = set[tuple[float, str, int | None, str | None]]()
            for number, key in enumerate((*(f"chat/{one}" for one in range(5)), "chat/\U0010ffff")):
                times = {sid: float(10 + sid % 3) for sid in range(1, 20)}
                timers = {name: Timer(float(11 + number % 2), b"x") for name in NAMES[:20]}
                links = {sid: LinkHalf(0, time) for sid, time in times.items()}
                sessions = dict.fromkeys(times, session)
                await store.commit(Commit(key, 1, store.epoch, sessions=sessions, links=links, timers=timers))
                wanted |= {(time, key, sid, None) for sid, time in times.items()}
                wanted |= {(one.due or 0.0, key, None, name) for name, one in timers.items()}
            found: list[Due] = []
            for limit in (1, 7, 1000):
                found = []
                while page := await store.due(100.0, limit, after=found[-1] if found else None):
                    assert len(page) <= limit
                    found += page
                assert len(found) == len(wanted)
                assert {(one.time, one.key, one.sid, one.timer) for one in found} == wanted
                assert [one.time for one in found] == sorted(one.time for one in found)
            assert {one.time for one in await store.due(11.0, 1000, after=Due(10.0, ""))} == {11.0}
            assert await store.due(math.inf, 1) == found[:1]
            assert not await store.due(9.9, 1000)
            # What it comes behind need not be there any more; where its room is gone some comes again.
            place = next(place for place, one in enumerate(found) if one.timer and one.time == 11.0) + 3
            before, gone = found[:place], found[place]
            assert gone.timer is not None
            await store.commit(Commit(gone.key, 2, store.epoch, timers={gone.timer: None}))
            assert await store.due(100.0, 1000, after=gone) == found[place + 1 :]
            await store.commit(Commit(gone.key, 3, store.epoch, destroy=True))
            left = [one for one in found if one.key != gone.key]
            rest = await store.due(100.0, 1000, after=gone)
            assert rest[-1] == left[-1]
            assert {one.key for one in rest if one.time > gone.time} == {one.key for one in left}
            assert set(rest) >= {one for one in left if one not in before}
