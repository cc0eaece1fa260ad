"""What the writer of a `DiskStore` remembers of rooms: never more than what is in the file."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import pytest
import trio
import trio.testing
from hypothesis import event, given, settings
from hypothesis import strategies as st

from trio_rooms.errors import StaleWrite, StoreError
from trio_rooms.stores import Commit, MemoryStore, StoredSnapshot
from trio_rooms.stores.checks import writes_more
from trio_rooms.stores.sqlite import commits, newest
from trio_rooms.stores.sqlite.database import FILE_NAME
from trio_rooms.stores.sqlite.store import DiskStore

KEYS = ("a/1", "a/2", "b/1")
SPOILS = "a bug"
SWAP = (
    "UPDATE snapshots SET id = -1 - id WHERE id / 2 = (SELECT id FROM rooms WHERE key = ?)",
    "UPDATE snapshots SET id = (-1 - id) / 2 * 2 + 1 - (-1 - id) % 2 WHERE id < 0",
)
"""Both snapshots of a room change their places, which changes nothing of what it has."""


@attrs.frozen
class Step:
    """A commit, made when the numbers before it are known."""

    key: str
    size: int
    ahead: int
    writes: bool
    destroys: bool
    spoils: bool
    epoch: int

    def commit(self, number: int) -> Commit:
        """The commit, after ``number``."""
        epoch = self.epoch
        number += self.ahead
        if self.destroys or number < 1:
            return Commit(self.key, max(number, 1), epoch, destroy=True)
        document = b"%d" % number * self.size or None
        wanted = self.writes or self.spoils or document is None
        writes = {SPOILS if self.spoils else "x": b"%d" % number} if wanted else {}
        return Commit(self.key, number, epoch, document, writes)


def rarely(chance: int) -> st.SearchStrategy[bool]:
    """Whether something happens that seldom does."""
    return st.integers(0, chance).map(lambda drawn: drawn == chance)


STEPS = st.builds(
    Step,
    st.sampled_from(KEYS),
    st.sampled_from((1, 1, 1, 20, 10_000, 0)),
    st.sampled_from((1, 1, 1, 1, 1, 1, 1, 1, 0, 2)),
    rarely(6),
    rarely(12),
    rarely(10),
    st.sampled_from((1, 1, 1, 1, 1, 1, 1, 1, 1, 2)),
)
GROUPS = st.tuples(st.lists(STEPS, min_size=1, max_size=12), st.sampled_from(("", "", "", "swap", "close")))


@contextlib.contextmanager
def spoiling() -> Iterator[None]:
    """Have a commit that says so fail with its transaction, when all of it is written."""
    write = commits.write

    def spoiled(connection: sqlite3.Connection, commit: Commit, epoch: int) -> int | None:
        row = write(connection, commit, epoch)
        if SPOILS in commit.writes:
            raise RuntimeError(SPOILS)
        return row

    with mock.patch.object(commits, "write", spoiled):
        yield


async def commit_all(store: DiskStore, made: list[Commit]) -> list[BaseException | None]:
    """Hand commits over at once, so that most of them share a transaction; what each raised."""
    raised: list[BaseException | None] = [None] * len(made)

    async def commit(index: int) -> None:
        try:
            await store.commit(made[index])
        except StoreError as exc:
            raised[index] = exc

    async with trio.open_nursery() as nursery:
        for index in range(len(made)):
            nursery.start_soon(commit, index)
            await trio.lowlevel.checkpoint()
    return raised


def swap(directory: Path, key: str) -> None:
    """Write to the file as another program would."""
    with contextlib.closing(sqlite3.connect(directory / FILE_NAME)) as outside, outside:
        for statement in SWAP:
            outside.execute(statement, (key.encode(),) * statement.count("?"))


@pytest.mark.parametrize("examples", [15, pytest.param(400, marks=pytest.mark.long)])
def test_what_is_remembered_is_what_is_stored(
    examples: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever was rolled back, whoever else has written, whichever connection was lost: all is as asked."""

    async def main(groups: list[tuple[list[Step], str]]) -> None:
        directory = tmp_path_factory.mktemp("data")
        disk, memory = DiskStore(directory), MemoryStore()
        async with disk, memory:
            for steps, disturbance in groups:
                made = []
                numbers = {key: (await memory.head(key)).number for key in KEYS}
                for step in steps:
                    made.append(step.commit(numbers[step.key]))
                    if step.ahead == 1 == step.epoch and not step.spoils:
                        numbers[step.key] += 1
                if disturbance == "swap":
                    for key in KEYS:
                        swap(directory, key)
                assert disk._writer is not None
                if disturbance == "close" and disk._writer._connection is not None:
                    disk._writer._connection.close()
                raised = await commit_all(disk, made)
                for commit, error in zip(made, raised, strict=True):
                    if error is not None and not isinstance(error, StaleWrite):
                        event("failed")
                        assert SPOILS in commit.writes or "closed database" in str(error)
                        continue
                    try:
                        await memory.commit(commit)
                    except StaleWrite as exc:
                        assert (type(error), str(error)) == (StaleWrite, str(exc))  # noqa: PT017 (the same)
                    else:
                        assert error is None
                for key in KEYS:
                    assert await disk.load(key) == await memory.load(key)
                    assert await disk.list(key) == await memory.list(key)

    @settings(max_examples=examples, deadline=None)
    @given(groups=st.lists(GROUPS, min_size=3, max_size=6))
    def check(groups: list[tuple[list[Step], str]]) -> None:
        with spoiling():
            trio.run(main, groups)

    check()


def test_whatever_a_commit_has_beside_a_snapshot_is_more() -> None:
    """Also what a commit will have one day: else it would be put off, and never written."""
    plain = Commit("chat/1", 1, 1, b"one")
    assert not writes_more(plain)
    # Which commit it is, what is looked at by itself, and what says something of the journal's head alone.
    apart = {"key", "number", "epoch", "nonce", "document", "destroy", "sends", "before", "floor"}
    more = {field.name for field in attrs.fields(Commit)} - apart
    anything: Any = {1: 1}
    assert {name for name in more if not writes_more(attrs.evolve(plain, **{name: anything}))} == set()


async def test_commits_that_only_replace_a_snapshot_are_not_looked_up(tmp_path: Path) -> None:
    """From the third one on, whatever its size; the nonce of the last one is still found."""
    with mock.patch.object(commits, "write", wraps=commits.write) as write:
        async with DiskStore(tmp_path) as store:
            for key, size in (("chat/1", 100), ("chat/2", newest.LARGE + 1)):
                write.reset_mock()
                for number in range(1, 6):
                    await store.commit(Commit(key, number, 1, b"%d" % number * size))
                commit = Commit(key, 6, 1, b"6" * size)
                await store.commit(commit)
                assert write.call_count == 2
                assert (await store.head(key)).nonce == commit.nonce
                await store.commit(commit)
                with pytest.raises(StaleWrite, match="is another"):
                    await store.commit(Commit(key, 6, 1, b"other"))
                assert write.call_count == 4
                assert store._writer is not None
                assert store._writer._connection is not None
                (last,) = store._writer._connection.execute("SELECT max(number) FROM rooms").fetchone()
                assert last == (6 if size > newest.LARGE else 1)
                snapshots = tuple(StoredSnapshot(number, b"%d" % number * size) for number in (6, 5))
                assert (await store.load(key)).snapshots == snapshots


async def test_another_opening_makes_commits_stale(tmp_path: Path) -> None:
    """The epoch of the file is looked at again as soon as somebody else has written."""
    async with DiskStore(tmp_path) as store:
        for number in (1, 2, 3):
            await store.commit(Commit("chat/1", number, 1, b"one"))
        with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as outside, outside:
            outside.execute("UPDATE store SET epoch = 2")
        for _ in range(2):
            with pytest.raises(StaleWrite, match="epoch 1 is refused"):
                await store.commit(Commit("chat/1", 4, 1, b"four"))
        assert (await store.head("chat/1")).number == 3


async def test_so_many_rooms_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered has a bound, and what is forgotten is looked up."""
    monkeypatch.setattr(newest, "_MOST", 10)
    async with DiskStore(tmp_path) as store:
        for number in range(1, 5):
            for room in range(25):
                await store.commit(Commit(f"chat/{room}", number, 1, b"%d" % number))
                assert store._writer is not None
                assert len(store._writer._newest._rooms) <= 10
        for room in range(25):
            snapshots = (await store.load(f"chat/{room}")).snapshots
            assert snapshots == (StoredSnapshot(4, b"4"), StoredSnapshot(3, b"3"))


async def test_who_is_forgotten_is_looked_up_as_he_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another room takes his place between two of his commits in one transaction."""
    monkeypatch.setattr(newest, "_MOST", 1)
    async with DiskStore(tmp_path) as store:
        for key, number in (("a/1", 1), ("b/1", 1), ("a/1", 2)):
            await store.commit(Commit(key, number, 1, b"%d" % number))
        group = [Commit("a/1", 3, 1, b"3"), Commit("b/1", 2, 1, b"2"), Commit("a/1", 4, 1, b"4")]
        gathered, write = threading.Event(), commits.write

        def wait_for_all(connection: sqlite3.Connection, commit: Commit, epoch: int) -> int | None:
            gathered.wait(10)
            return write(connection, commit, epoch)

        monkeypatch.setattr(commits, "write", wait_for_all)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.commit, Commit("c/1", 1, 1, b"1"))
            await trio.testing.wait_all_tasks_blocked()
            for commit in group:
                nursery.start_soon(store.commit, commit)
                await trio.testing.wait_all_tasks_blocked()
            gathered.set()
        assert (await store.load("a/1")).snapshots == (StoredSnapshot(4, b"4"), StoredSnapshot(3, b"3"))


async def test_a_snapshot_that_is_not_where_it_was_fails_a_commit_once(tmp_path: Path) -> None:
    """Nothing is written where a row is gone; the next commit looks for itself."""
    async with DiskStore(tmp_path) as store:
        for number in (1, 2, 3):
            await store.commit(Commit("chat/1", number, 1, b"one"))
        # The writer's own connection, whose writes are nobody else's.
        assert store._writer is not None
        assert store._writer._connection is not None
        store._writer._connection.execute("DELETE FROM snapshots WHERE generation = 2")
        commit = Commit("chat/1", 4, 1, b"four")
        with pytest.raises(StoreError, match="1 of 1 snapshots are not where they were"):
            await store.commit(commit)
        assert (await store.load("chat/1")).snapshots == (StoredSnapshot(3, b"one"),)
        await store.commit(commit)
        assert (await store.load("chat/1")).snapshots[0] == StoredSnapshot(4, b"four")
