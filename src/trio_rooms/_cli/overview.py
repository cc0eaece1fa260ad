"""What ``inspect`` writes: a table of all rooms, or all about one."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from trio_rooms._state.occurrences import Cron, Every
from trio_rooms._state.snapshot import Snapshot
from trio_rooms._state.timers import Scheduled, Unreadable
from trio_rooms.errors import SnapshotError, StoreError
from trio_rooms.stores.base import RoomHead, Store, Timer

from .render import printable, quoted, show
from .stored import (
    all_keys,
    generations_of,
    goes_on,
    newest_intact,
    no_such_room,
    sessions_of,
    storage_of,
    timers_of,
    waiting_in,
)

__all__ = ["describe_room", "list_rooms"]

_CONDITIONS: Final = {True: "DAMAGED", False: "UNREADABLE"}
"""What is said of a generation that is not as it was written, and of one that is and cannot be read."""


async def _describe_rest(store: Store, key: str, head: RoomHead, write: Callable[[str], object]) -> None:
    """Journal, sessions and schedules, where there are any."""
    if head.entries:
        write(f"journal      {_counted(head.entries, 'message')}, {head.entry_bytes:,} bytes")
    if head.has_sessions:
        connected = over = sessions = 0
        async with aclosing(sessions_of(store, key)) as found:
            async for session in found:
                sessions += 1
                connected += session.link.until is None and not session.link.ended
                over += session.link.ended
        away = sessions - connected - over
        how = f"{connected:,} connected, {away:,} away, {over:,} over"
        write(f"sessions     {_counted(sessions, 'session')}: {how}")
    if head.has_timers:
        async with aclosing(timers_of(store, key)) as timers:
            scheduled = [_scheduled(name, timer) async for name, timer in timers]
        write(f"schedules    {_counted(len(scheduled), 'schedule')}")
        for line in scheduled:
            write(f"    {line}")


def _scheduled(name: str, timer: Timer) -> str:
    """One line about something that a room has scheduled."""
    when = "given up"
    if timer.due is not None:
        when = f"{datetime.datetime.fromtimestamp(timer.due, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    try:
        one = Scheduled.of(name, timer)
    except Unreadable as error:
        return f"{quoted(name)}  {when}, cannot be read: {printable(str(error))}"
    again = ""
    if isinstance(one.rule, Every):
        again = f", every {one.rule.period:,g} s"
    elif isinstance(one.rule, Cron):
        again = f", cron {quoted(one.rule.expression)} in {printable(one.rule.zone)}"
    failed = f", {one.failed:,} failed" if one.failed else ""
    why = f": {printable(one.error)}" if one.error else ""
    return f"{quoted(name)}  {when}{again}{failed}{why}"


def _counted(count: int, one: str) -> str:
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


async def list_rooms(store: Store, write: Callable[[str], object]) -> None:
    """Write a table of all rooms, line by line, however many there are, and what waits for users."""
    write(f"{'VERSION':>7}  {'GENERATION':>10}  {'BYTES':>11}  {'STORAGE':>7}  KEY")
    count = 0
    async with aclosing(all_keys(store)) as keys:
        async for key in keys:
            count += 1
            write(await _line(store, key))
    write(_counted(count, "room"))
    messages, users = await waiting_in(store)
    if messages:
        write(f"{_counted(messages, 'message')} waiting for {_counted(users, 'user')}")


async def _line(store: Store, key: str) -> str:
    """One room's line of the table, without decoding its state, which may be large."""
    found = (await store.load(key)).snapshots
    version, note, names = "-", "", 0
    storage = ""
    try:
        async with aclosing(storage_of(store, key)) as values:
            async for _ in values:
                names += 1
    except StoreError as error:
        storage = f"  ({error})"
    for stored in found:
        try:
            version = str(Snapshot.of(key, stored).version)
        except SnapshotError:
            continue
        if stored is not found[0]:
            note = "  (damaged: generation before it is intact)"
        break
    else:
        note = "  (damaged)" if found else "  (no snapshot)"
    generation = f"{found[0].generation:,}" if found else "-"
    size = f"{len(found[0].document):,}" if found else "-"
    return f"{version:>7}  {generation:>10}  {size:>11}  {names:>7,}  {printable(key)}{note}{storage}"


async def describe_room(store: Store, key: str, write: Callable[[str], object]) -> bool:
    """Write what a store has of one room.

    Returns:
        Whether its state can be read.

    Raises:
        UnknownRoom: the store has nothing of it.
    """
    stored = await store.load(key)
    generations = generations_of(key, stored.snapshots)
    sizes = []
    async with aclosing(storage_of(store, key)) as values:
        async for name, value in values:
            sizes.append((name, len(value)))
    if not generations and not sizes and not goes_on(stored.head):
        raise no_such_room(key)
    usable = newest_intact(generations)
    write(f"room         {printable(key)}")
    if usable is not None and usable.snapshot is not None:
        write(f"version      {usable.snapshot.version}")
        write(f"generation   {usable.snapshot.generation:,}")
        write(f"epoch        {usable.snapshot.epoch:,}")
        write(f"size         {len(usable.stored.document):,} bytes")
    heading = "generations"
    for one in generations or ():
        condition = "intact" if one.fault is None else f"{_CONDITIONS[one.damaged]}: {one.fault}"
        write(f"{heading:<11}  {one.stored.generation:,}: {len(one.stored.document):,} bytes, {condition}")
        heading = ""
    if not generations:
        write("generations  none")
    write(f"storage      {_counted(len(sizes), 'name')}")
    for name, size in sizes:
        write(f"    {quoted(name)}  {size:,} bytes")
    await _describe_rest(store, key, stored.head, write)
    if usable is None:
        write("state        none that can be read")
        return False
    write(
        "state" if usable is generations[0] else f"state        (of generation {usable.stored.generation:,})"
    )
    try:
        # Written after all of it is made: half a state would look like a whole one.
        shown = "".join(show(usable.state, "    "))
    except RecursionError:
        shown = "(nested too deeply to be shown; --export writes it)"
    write(f"    {shown}")
    return True
