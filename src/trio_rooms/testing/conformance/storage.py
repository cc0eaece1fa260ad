"""Documents, values, and how names and keys are listed."""

from __future__ import annotations

import trio

from trio_rooms.stores.base import Store, StoredSnapshot

from .support import NAMES, loaded, put, selected, selections

__all__ = ["Storage"]


class Storage:
    """What is kept, and how it is listed."""

    async def test_nothing_is_stored_at_first(self, store: Store) -> None:
        """An empty store has no snapshot, no value and no key."""
        async with store:
            assert await loaded(store, "chat/1") == (0, ())
            assert await store.get("chat/1", "name") is None
            assert await store.list("chat/1") == []
            assert await store.keys() == []

    async def test_storage_is_written_without_a_snapshot(self, store: Store) -> None:
        """A commit without a document leaves the snapshots alone, and counts."""
        async with store:
            await put(store, "chat/1", 1, writes={"a": b"1"})
            assert await loaded(store, "chat/1") == (1, ())
            await put(store, "chat/1", 2, b"two")
            await put(store, "chat/1", 3, writes={"a": b"2", "b": b"2"})
            await put(store, "chat/1", 4, writes={"a": b"3", "b": None, "never": None})
            assert await loaded(store, "chat/1") == (4, (StoredSnapshot(2, b"two"),))
            assert await store.list("chat/1") == [("a", b"3")]

    async def test_storage_is_each_rooms_own(self, store: Store) -> None:
        """A name in one room's storage is not found in another's."""
        async with store:
            await put(store, "chat/1", 1, writes={"a": b"1"})
            await put(store, "chat/11", 1, writes={"a": b"11"})
            assert await store.get("chat/1", "a") == b"1"
            assert await store.get("chat/11", "a") == b"11"
            assert await store.get("chat/", "a") is None

    async def test_empty_documents_and_values_are_not_missing(self, store: Store) -> None:
        """A document or value of no bytes is there."""
        async with store:
            await put(store, "chat/1", 1, b"", {"": b""})
            assert await loaded(store, "chat/1") == (1, (StoredSnapshot(1, b""),))
            assert await store.get("chat/1", "") == b""
            assert await store.list("chat/1") == [("", b"")]

    async def test_writes_may_be_changed_after_the_commit_is_handed_over(self, store: Store) -> None:
        """The store took the values that the mapping had when `commit` was called."""
        async with store:
            writes: dict[str, bytes | None] = {"a": b"1"}
            with trio.CancelScope() as scope:
                scope.cancel()
                await put(store, "chat/1", 1, b"one", writes)
            writes["a"] = b"2"
            await put(store, "chat/1", 2, b"two")
            assert await store.list("chat/1") == [("a", b"1")]

    async def test_names_keep_their_characters_and_their_order(self, store: Store) -> None:
        """Every string that can be encoded is a name, and names are ordered by code point."""
        async with store:
            await put(store, "chat/1", 1, writes={name: name.encode() for name in reversed(NAMES)})
            assert await store.list("chat/1") == [(name, name.encode()) for name in sorted(NAMES)]
            for name in NAMES:
                assert await store.get("chat/1", name) == name.encode()

    async def test_names_are_listed_by_prefix_after_and_limit(self, store: Store) -> None:
        """`list` takes prefixes literally, begins behind ``after``, and stops at ``limit``."""
        async with store:
            await put(store, "chat/1", 1, writes=dict.fromkeys(NAMES, b""))
            for prefix, after, limit in selections():
                found = await store.list("chat/1", prefix, after=after, limit=limit)
                assert [name for name, _ in found] == selected(NAMES, prefix, after, limit)

    async def test_keys_are_listed_by_prefix_after_and_limit(self, store: Store) -> None:
        """`keys` has every room with a snapshot or storage once, ordered and limited like `list`."""
        async with store:
            for index, key in enumerate(NAMES):
                if index % 3 != 0:
                    await put(store, key, 1, key.encode())
                if index % 3 != 1:
                    await put(store, key, 1 + (index % 3 != 0), writes={"a": key.encode(), "b": b""})
            assert await store.keys() == sorted(NAMES)
            for prefix, after, limit in selections():
                found = await store.keys(prefix, after=after, limit=limit)
                assert found == selected(NAMES, prefix, after, limit)
            for index, key in enumerate(NAMES):
                snapshots = (await store.load(key)).snapshots
                assert snapshots == ((StoredSnapshot(1, key.encode()),) if index % 3 else ())

    async def test_long_lists_are_whole(self, store: Store) -> None:
        """A list that is long, or whose values are large, has all that belongs to it."""
        names = [f"{number:05}" for number in range(1000)]
        async with store:
            await put(store, "chat/1", 1, writes={name: name.encode() * 100 for name in names})
            assert await store.list("chat/1") == [(name, name.encode() * 100) for name in names]
            found = await store.list("chat/1", "00", after="00499", limit=300)
            assert [name for name, _ in found] == names[500:800]
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(put, store, f"many/{name}", 1, b"")
            assert await store.keys("many/") == [f"many/{name}" for name in names]
            assert await store.keys("many/", after="many/00499", limit=300) == [
                f"many/{name}" for name in names[500:800]
            ]

    async def test_large_documents_and_values(self, store: Store) -> None:
        """Documents and values of 1 MiB come back as they were, small ones beside them too."""
        large = bytes(range(256)) * 4096
        async with store:
            await put(store, "chat/1", 1, b"small", {"large": large, "small": b"1"})
            await put(store, "chat/1", 2, large)
            assert await loaded(store, "chat/1") == (
                2,
                (StoredSnapshot(2, large), StoredSnapshot(1, b"small")),
            )
            assert await store.get("chat/1", "large") == large
            assert await store.list("chat/1") == [("large", large), ("small", b"1")]
