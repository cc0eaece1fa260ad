from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.room.parts import Parts, wired
from trio_rooms import Context, MemoryStore, Room, StaleWrite, StateError, StoreError, StoreFull
from trio_rooms._room import saver
from trio_rooms._room.mail import SaveFailed
from trio_rooms._state.record import Record
from trio_rooms.testing import FaultyStore

INTERVAL = 2.0


async def _on_error(_ctx: Context[dict[str, Any]], _error: Exception) -> None:
    """Nothing: that there is one is enough."""


def shelf(*, listens: bool = False) -> Room[dict[str, Any]]:
    """A room whose state is a dict."""
    room: Room[dict[str, Any]] = Room("shelf", state=dict, snapshot_interval=INTERVAL)
    if listens:
        room.on_error(_on_error)
    return room


async def stored(parts: Parts) -> Any:
    """The state that somebody else finds in the store."""
    loaded = await other(parts).load()
    return None if loaded is None else loaded.state


def other(parts: Parts) -> Record:
    """What another process has of the same room."""
    return Record(parts.record.key, parts.definition, parts.record._store)


@contextlib.asynccontextmanager
async def awake(store: FaultyStore | None = None, *, listens: bool = False) -> AsyncIterator[Parts]:
    """A room that was loaded, and whose hooks have run."""
    async with wired(shelf(listens=listens), store or FaultyStore(MemoryStore())) as parts:
        await parts.saver.load()
        parts.saver.begin()
        yield parts


def put(parts: Parts, name: str, value: Any = True) -> None:
    """Change the state, as a handler does that ends then."""
    parts.saver.state[name] = value
    parts.record.touch()


def commits(store: FaultyStore) -> int:
    """How often the store was given something to write."""
    return sum(call.operation == "commit" for call in store.calls)


@pytest.mark.parametrize("delay", [0.0, 0.9])
async def test_a_change_is_in_the_store_within_the_interval(delay: float, autojump_clock: MockClock) -> None:
    """Whenever it is made, and where the commit takes nearly half of it."""
    async with awake(FaultyStore(MemoryStore(), delay=delay)) as parts:
        for number in range(10):
            await trio.sleep(number * 0.37)
            put(parts, str(number))
            await trio.sleep(INTERVAL)
            assert str(number) in await stored(parts)


async def test_changes_of_one_interval_are_one_commit(autojump_clock: MockClock) -> None:
    """And none where nothing changed."""
    store = FaultyStore(MemoryStore())
    async with awake(store) as parts:
        for number in range(90):
            put(parts, str(number))
            await trio.sleep(0.01)
        await trio.sleep(INTERVAL)
        assert commits(store) == 1
        parts.record.touch()
        await trio.sleep(10 * INTERVAL)
        assert commits(store) == 1
        assert not parts.record.dirty


async def test_nothing_of_a_half_run_on_create_is_saved(autojump_clock: MockClock) -> None:
    """However long it takes, and however much it writes; all of it is, once the room is awake."""
    store = FaultyStore(MemoryStore())
    async with wired(shelf(), store) as parts:
        assert await parts.saver.load() is None
        put(parts, "half")
        parts.live.storage.put("big", b"x" * (1 << 22))
        await trio.sleep(100)
        assert commits(store) == 0
        put(parts, "whole")
        parts.saver.begin()
        await trio.sleep(INTERVAL)
        assert await stored(parts) == {"half": True, "whole": True}
        assert len(await store.list(parts.record.key)) == 1


async def test_much_that_was_written_to_the_storage_is_saved_at_once(autojump_clock: MockClock) -> None:
    """It does not wait for the interval, since it takes memory until then."""
    store = FaultyStore(MemoryStore())
    async with awake(store) as parts:
        parts.live.storage.put("big", b"x" * (1 << 22))
        await wait_all_tasks_blocked()
        assert commits(store) == 1


@pytest.mark.parametrize("interval", [0.0, 0.01])
async def test_a_state_is_looked_at_now_and_then_while_tasks_may_change_it(
    interval: float, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle task costs next to nothing, however short the interval; what is told is saved at once."""
    looks = 0
    save = Record.save

    async def counting(self: Record, state: Any, *, in_thread: bool = True) -> None:
        nonlocal looks
        looks += 1
        await save(self, state, in_thread=in_thread)

    monkeypatch.setattr(Record, "save", counting)
    monkeypatch.setattr(saver, "_ENCODING_SHARE", 0)  # What encoding takes is real time.
    room: Room[dict[str, Any]] = Room("shelf", state=dict, snapshot_interval=interval)
    async with wired(room, FaultyStore(MemoryStore())) as parts:
        await parts.saver.load()
        parts.saver.begin()
        parts.background.start(trio.sleep_forever, (), None, keep_awake=False)
        await trio.sleep(10)
        assert 50 < looks <= 102
        parts.saver.state["untold"] = True
        await trio.sleep(0.1)
        assert await stored(parts) == {"untold": True}
        put(parts, "told")
        await trio.sleep(interval)
        await wait_all_tasks_blocked()
        assert await stored(parts) == {"untold": True, "told": True}


@pytest.mark.parametrize("suspended", ["a handler", "a task"])
async def test_what_goes_on_after_a_save_may_change_something(
    suspended: str, autojump_clock: MockClock
) -> None:
    """While a handler waits or a task runs, the state is looked at again and again, though nobody says so."""
    async with awake() as parts:
        if suspended == "a handler":
            parts.mailbox.current = SaveFailed(ValueError())
        else:
            parts.background.start(trio.sleep_forever, (), None, keep_awake=False)
        put(parts, "said")
        await trio.sleep(INTERVAL)
        parts.saver.state["in silence"] = True
        await trio.sleep(INTERVAL)
        assert await stored(parts) == {"said": True, "in silence": True}


async def test_a_save_that_fails_is_tried_again_less_and_less_often(autojump_clock: MockClock) -> None:
    """Each pause is twice the one before, up to half a minute; a success begins anew."""
    store = FaultyStore(MemoryStore())
    async with awake(store) as parts:
        for _ in range(2):
            failed: list[float] = []

            def fail(failed: list[float] = failed) -> StoreFull:
                failed.append(trio.current_time())
                return StoreFull("full")

            store.fail_commits(fail, times=12)
            put(parts, "it", trio.current_time())
            await trio.sleep(400)
            pauses = [after - before for before, after in itertools.pairwise(failed)]
            assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30])
            assert await stored(parts) == parts.saver.state


async def test_a_save_that_fails_is_told_and_keeps_the_room_from_sleeping(autojump_clock: MockClock) -> None:
    """The caller, on_error by mail, and idleness; nothing is lost."""
    store = FaultyStore(MemoryStore())
    async with awake(store, listens=True) as parts:
        store.fail_commits(lambda: StoreFull("full"))
        put(parts, "kept")
        assert await parts.saver.save() is False
        (mail,) = parts.mailbox.drain()
        assert isinstance(mail, SaveFailed)
        assert isinstance(mail.error, StoreFull)
        assert parts.idleness.not_before == pytest.approx(trio.current_time() + 0.2)
        assert parts.saver.unsaved
        assert await parts.saver.save() is True
        assert await stored(parts) == {"kept": True}


@pytest.mark.parametrize("why", ["nobody listens", "the room is to stop"])
async def test_a_failure_is_no_mail_where_nobody_would_read_it(why: str, autojump_clock: MockClock) -> None:
    """A room without on_error, or one that is to stop as soon as it has no mail."""
    store = FaultyStore(MemoryStore())
    async with awake(store, listens=why != "nobody listens") as parts:
        parts.idleness.stopping = why == "the room is to stop"
        store.fail_commits(lambda: StoreFull("full"))
        put(parts, "kept")
        assert await parts.saver.save() is False
        assert parts.mailbox.drain() == []


async def test_a_state_that_cannot_be_encoded_is_a_failure_like_others(autojump_clock: MockClock) -> None:
    """It is told with the path, tried again, and saved once it is mended."""
    async with awake(listens=True) as parts:
        put(parts, "bad", object())
        await trio.sleep(10)
        errors = [mail.error for mail in parts.mailbox.drain() if isinstance(mail, SaveFailed)]
        assert {type(error) for error in errors} == {StateError}
        assert len(errors) > 1
        put(parts, "bad", "mended")
        await trio.sleep(30)
        assert await stored(parts) == {"bad": "mended"}


async def test_a_stale_write_is_raised_to_the_actor(autojump_clock: MockClock) -> None:
    """It is no failure that one could try again: what this room has is worth nothing, and not written."""
    async with awake(listens=True) as parts:
        put(parts, "mine")
        await other(parts).save(lambda: {"theirs": True})
        with pytest.raises(StaleWrite):
            await parts.saver.save()
        assert parts.mailbox.drain() == []
        assert await stored(parts) == {"theirs": True}


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
async def test_what_is_no_failure_of_the_store_crashes_the_room_from_the_background(
    error: type[Exception] | None, autojump_clock: MockClock
) -> None:
    """A stale write, or what no store may raise, ends the room's nursery and no other."""
    store = FaultyStore(MemoryStore())
    async with awake(store) as parts:
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 (the block is what is tested)
            async with trio.open_nursery() as life:
                parts.background.nursery = life
                if error is None:
                    await other(parts).save(lambda: {"theirs": True})
                else:
                    store.fail_commits(error)
                put(parts, "mine")
                await trio.sleep(100)
        assert [type(one) for one in caught.value.exceptions] == [error or StaleWrite]


@pytest.mark.parametrize("end", ["reset", "close", "dispose"])
async def test_after_the_end_nothing_is_saved_by_itself(end: str, autojump_clock: MockClock) -> None:
    """Neither by the deadline that was set, nor by what changes later."""
    store = FaultyStore(MemoryStore())
    async with awake(store) as parts:
        put(parts, "lost")
        getattr(parts.saver, end)()
        assert getattr(parts.saver, "state", None) == ({"lost": True} if end == "close" else None)
        parts.record.touch()
        await trio.sleep(10 * INTERVAL)
        assert commits(store) == 0


async def test_a_room_that_crashed_begins_with_what_is_in_the_store(autojump_clock: MockClock) -> None:
    """What was not saved is forgotten, the storage's writes too, and what changes then is saved as ever."""
    store = FaultyStore(MemoryStore())
    async with awake(store) as parts:
        put(parts, "saved")
        await trio.sleep(INTERVAL)
        put(parts, "lost")
        parts.live.storage.put("lost", 1)
        parts.saver.reset()
        loaded = await parts.saver.load()
        assert loaded is not None
        assert parts.saver.state == loaded.state == {"saved": True}
        assert await parts.live.storage.list() == {}
        parts.saver.begin()
        put(parts, "again")
        await trio.sleep(INTERVAL)
        assert await stored(parts) == {"saved": True, "again": True}


async def test_a_large_state_is_left_to_the_actor(autojump_clock: MockClock) -> None:
    """In the background nobody may encode it in a thread: the actor is asked to, and woken for it."""
    store = FaultyStore(MemoryStore())
    async with awake(store) as parts:
        put(parts, "big", "x" * 200_000)
        await trio.sleep(INTERVAL)
        assert commits(store) == 1
        woken = False

        async def read() -> None:
            nonlocal woken
            await parts.mailbox.wait(trio.lowlevel.current_task())
            woken = True

        parts.runtime.start_soon(read)
        put(parts, "more")
        await trio.sleep(20 * INTERVAL)
        assert (parts.saver.requested, woken, commits(store)) == (True, True, 1)


async def test_much_that_is_written_beside_a_large_state_is_left_to_the_actor(
    autojump_clock: MockClock,
) -> None:
    """It cannot be written at once, and must not keep what comes later from being saved at all."""
    async with awake(FaultyStore(MemoryStore())) as parts:
        put(parts, "big", "x" * 200_000)
        await trio.sleep(20 * INTERVAL)
        assert not parts.record.dirty
        parts.live.storage.put("blob", b"x" * (1 << 22))
        await trio.sleep(INTERVAL)
        assert parts.saver.requested


@pytest.mark.parametrize("failures", [4, 5])
async def test_loading_is_tried_five_times(failures: int, autojump_clock: MockClock) -> None:
    """With pauses in between; the error of the last try is raised."""
    store = FaultyStore(MemoryStore())
    async with wired(shelf(), store) as parts:
        began = trio.current_time()
        store.fail_loads(lambda: StoreError("a moment"), times=failures)
        if failures == 5:
            with pytest.raises(StoreError, match="a moment"):
                await parts.saver.load()
        else:
            assert await parts.saver.load() is None
            assert parts.saver.state == {}
        assert trio.current_time() - began == pytest.approx(0.1 + 0.2 + 0.4 + 0.8)
        assert sum(call.operation == "load" for call in store.calls) == 5
