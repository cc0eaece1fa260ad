"""The journal of a room."""

from __future__ import annotations

import attrs

from trio_rooms.errors import StaleWrite
from trio_rooms.stores.base import Entry, Store, StoredSnapshot

from .support import following, raises, sent

__all__ = ["Journal"]


class Journal:
    """What was sent, as it was sent."""

    async def test_entries_are_read_as_they_were_sent(self, store: Store) -> None:
        """The journal has what was added, in its order, with what it says of it in the head."""
        entries = (*sent(1, 2, 5), Entry(2**40, b"", b"\x00" * 1000, -1.5))
        async with store:
            await store.commit(following(store, 1, entries=entries[:2], seq=3))
            head = await store.head("chat/1")
            assert (head.seq, head.before, head.floor, head.entries, head.entry_bytes) == (3, 0, 0, 2, 2)
            await store.commit(following(store, 2, b"two", entries=entries[2:], seq=2**40, before=3, floor=1))
            assert await store.journal("chat/1", 0, 2**63 - 1, 2**62) == [*entries]
            assert await store.journal("chat/1", 1, 5, 2**62) == [*entries[1:3]]
            assert await store.journal("chat/1", 2, 4, 2**62) == []
            assert await store.journal("chat/1", 2**40, 2**63 - 1, 2**62) == []
            assert await store.journal("chat/2", 0, 2**63 - 1, 2**62) == []
            stored = await store.load("chat/1")
            assert stored.snapshots == (StoredSnapshot(2, b"two"),)
            assert stored.head == attrs.evolve(
                await store.head("chat/1"), seq=2**40, before=3, floor=1, entries=4, entry_bytes=1003
            )
        async with store:
            assert await store.journal("chat/1", 0, 2**63 - 1, 2**62) == [*entries]
            assert (await store.head("chat/1")).entries == 4

    async def test_seqs_only_rise(self, store: Store) -> None:
        """Entries at or below the highest seq, or a lower highest one, are stale and write nothing."""
        async with store:
            await store.commit(following(store, 1, entries=sent(5), seq=9))
            for entries, seq in ((sent(5), 10), (sent(9, 10), 10), (sent(3), 9), ((), 8)):
                with raises(StaleWrite):
                    await store.commit(following(store, 2, b"stale", entries=entries, seq=seq))
            head = await store.head("chat/1")
            assert (head.number, head.seq, head.entries) == (1, 9, 1)
            await store.commit(following(store, 2, seq=9, before=4, floor=9))
            await store.commit(following(store, 3, b"three"))
            head = await store.head("chat/1")
            assert (head.number, head.seq, head.before, head.floor, head.entries) == (3, 9, 4, 9, 1)
            await store.commit(following(store, 4, entries=sent(10), seq=10))
            head = await store.head("chat/1")
            assert (head.seq, head.before, head.floor, head.entries) == (10, 0, 0, 2)

    async def test_a_journal_is_trimmed(self, store: Store) -> None:
        """Entries up to a seq go, those that come with it too; the seq stays."""
        async with store:
            await store.commit(following(store, 1, entries=sent(1, 2, 3, 4), seq=4))
            await store.commit(following(store, 2, trim=2))
            assert [one.seq for one in await store.journal("chat/1", 0, 99, 99)] == [3, 4]
            await store.commit(following(store, 3, entries=sent(5, 6), seq=6, trim=5))
            assert [one.seq for one in await store.journal("chat/1", 0, 99, 99)] == [6]
            assert (await store.head("chat/1")).entry_bytes == 1
            await store.commit(following(store, 4, b"four", entries=sent(7), seq=7, trim=99))
            head = await store.head("chat/1")
            assert (head.seq, head.entries, head.entry_bytes) == (7, 0, 0)
            with raises(StaleWrite):
                await store.commit(following(store, 5, entries=sent(7), seq=7))
            await store.commit(following(store, 5, entries=sent(8), seq=8))
            head = await store.head("chat/1")
            assert (head.seq, head.entries, head.entry_bytes) == (8, 1, 1)

    async def test_a_journal_is_read_in_pages(self, store: Store) -> None:
        """A page ends with the entry that makes it large enough, or the thousandth; one comes in any case."""
        entries = tuple(Entry(seq, b"all", bytes(100), 1.0) for seq in range(1, 2101))
        large = tuple(Entry(seq, b"all", bytes(200_000), 1.0) for seq in range(2101, 2105))
        async with store:
            await store.commit(following(store, 1, entries=entries + large, seq=2104))
            for after, until, most, expected in (
                (0, 2104, 0, [1]),
                (0, 2104, 1, [1]),
                (7, 2104, 100, [8]),
                (7, 2104, 101, [8, 9]),
                (7, 2104, 1000, [*range(8, 18)]),
                (0, 2104, 2**62, [*range(1, 1001)]),
                (1000, 2104, 10**6, [*range(1001, 2001)]),
                (0, 50, 2**62, [*range(1, 51)]),
                (2099, 2104, 1, [2100]),
                (2099, 2104, 101, [2100, 2101]),
                (2100, 2104, 300_000, [2101, 2102]),
                (2103, 2104, 1, [2104]),
            ):
                found = await store.journal("chat/1", after, until, most)
                assert [one.seq for one in found] == expected
            head = await store.head("chat/1")
            assert (head.entries, head.entry_bytes) == (2104, 1_010_000)
