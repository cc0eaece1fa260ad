"""What is special to the store on disk: its lock, its thread, its file, and what goes wrong with disks."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType

import attrs
import pytest
import trio
import trio.testing

from tests.stores.acknowledged import check_acknowledged
from trio_rooms.errors import StaleWrite, StoreClosed, StoreError, StoreFull, StoreInUse, StoreReadOnly
from trio_rooms.stores import (
    Commit,
    Entry,
    InboxSize,
    LinkHalf,
    Offer,
    Opening,
    Post,
    RoomHalf,
    Store,
    StoredSession,
    StoredSnapshot,
    Timer,
    Verdict,
    Waiting,
)
from trio_rooms.stores.sqlite import (
    commits,
    database,
    inboxes,
    journal,
    rooms,
    sessions,
    storage,
    timers,
    writer,
)
from trio_rooms.stores.sqlite.database import FILE_NAME
from trio_rooms.stores.sqlite.lock import DirectoryLock
from trio_rooms.stores.sqlite.store import DiskStore

SCRIPT = Path(__file__).with_name("store_process.py")
KIB = 1024


@contextlib.contextmanager
def process(role: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has to do with the directory; killed at the end if it still runs."""
    command = [sys.executable, str(SCRIPT), role, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def read_line(running: subprocess.Popen[str]) -> str:
    """What the process says next."""
    assert running.stdout is not None
    return running.stdout.readline().strip()


@contextlib.contextmanager
def writing_stopped(directory: Path) -> Iterator[None]:
    """Let no transaction on the directory begin, as if the disk were slow; commits queue up."""
    with contextlib.closing(sqlite3.connect(directory / FILE_NAME, isolation_level=None)) as outside:
        outside.execute("BEGIN IMMEDIATE")
        yield
        outside.execute("ROLLBACK")


async def commit_together(
    store: DiskStore, directory: Path, commits: list[Commit]
) -> list[BaseException | None]:
    """Hand commits over so that all but the first share a transaction; returns what each raised."""
    raised: list[BaseException | None] = [None] * len(commits)

    async def commit(index: int) -> None:
        try:
            await store.commit(commits[index])
        except StoreError as exc:
            raised[index] = exc

    async with trio.open_nursery() as nursery:
        with writing_stopped(directory):
            for index in range(len(commits)):
                nursery.start_soon(commit, index)
                await trio.testing.wait_all_tasks_blocked()
    return raised


def writer_connection(store: DiskStore) -> sqlite3.Connection:
    """The connection of the writer, which a test may use while nothing is committed."""
    assert store._writer is not None
    assert store._writer._connection is not None
    return store._writer._connection


async def loaded(store: Store, key: str) -> tuple[int, tuple[StoredSnapshot, ...]]:
    """The number of a room's last commit, and its snapshots."""
    stored = await store.load(key)
    return stored.head.number, stored.snapshots


async def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    """A directory that a process has is refused, with who has it and what to do."""
    with process("hold", tmp_path) as owner:
        assert read_line(owner) == "open"
        with pytest.raises(StoreInUse) as caught:
            await DiskStore(tmp_path).open()
        for part in (str(tmp_path), f"process {owner.pid} ", "store_process.py", "since", "stop that one"):
            assert part in str(caught.value)


async def test_a_second_store_of_the_same_process_is_refused(tmp_path: Path) -> None:
    """The directory is refused to another store of the same process too, until the first is closed."""
    async with DiskStore(tmp_path):
        with pytest.raises(StoreInUse, match=rf"this process \({os.getpid()}"):
            await DiskStore(tmp_path).open()
    async with DiskStore(tmp_path) as store:
        assert store.epoch == 2


async def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    """After kill -9 of its owner, what is left in the lock file matters to nobody."""
    with process("hold", tmp_path) as owner:
        assert read_line(owner) == "open"
        owner.kill()
        owner.wait()
        assert str(owner.pid) in (tmp_path / "lock").read_text()
        async with DiskStore(tmp_path) as store:
            assert store.epoch == 2
            assert str(os.getpid()) in (tmp_path / "lock").read_text()


async def test_what_is_in_the_lock_file_does_not_matter(tmp_path: Path) -> None:
    """A lock file with anything in it is nobody's, and is replaced by who has it now."""
    (tmp_path / "lock").write_bytes(b"1\nsomebody\nlong ago\n" + b"\xff\n" * 1000)
    async with DiskStore(tmp_path):
        with pytest.raises(StoreInUse, match=rf"this process \({os.getpid()}"):
            await DiskStore(tmp_path).open()


async def test_commits_are_synced(tmp_path: Path) -> None:
    """The writer syncs its log at each transaction."""
    async with DiskStore(tmp_path) as store:
        connection = writer_connection(store)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == (b"wal",)


async def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A child that was forked while the store was open does not hold the directory of its dead parent."""
    with process("fork", tmp_path) as owner:
        assert read_line(owner) == "open"
        with pytest.raises(StoreInUse):
            await DiskStore(tmp_path).open()
        owner.kill()
        owner.wait()
        async with DiskStore(tmp_path):
            pass


async def test_every_acknowledged_commit_survives_kill_9(tmp_path: Path) -> None:
    """Killed at any time, the directory has each acknowledged commit, and each commit whole or not at all."""
    for lines in (1, 40, 41, 300):
        acknowledged: dict[str, int] = {}
        with process("commit", tmp_path) as writer:
            for _ in range(lines):
                key, generation = read_line(writer).split()
                acknowledged[key] = int(generation)
            writer.kill()
            assert writer.stdout is not None
            for line in writer.stdout.read().splitlines(keepends=True):
                if line.endswith("\n"):
                    key, generation = line.split()
                    acknowledged[key] = int(generation)
            writer.wait()
        async with DiskStore(tmp_path) as store:
            await check_acknowledged(store, acknowledged)


async def test_a_limit_on_files_is_a_full_disk(tmp_path: Path) -> None:
    """Where SQLite only sees an I/O error, a full disk is still told as one, and it passes."""
    with process("fill", tmp_path) as running:
        said = running.communicate()[0].splitlines()
    assert said[0].startswith("full cannot write to ")
    assert str(tmp_path) in said[0]
    assert "make room" in said[0]
    assert said[1:] == ["readable b'before'", "whole True", "again b'after' True"]


async def test_a_full_disk_fails_only_what_does_not_fit(tmp_path: Path) -> None:
    """Of commits that share a transaction only the one without room fails, and writes nothing."""
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/0", 1, 1, b"one"))
        connection = writer_connection(store)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 4}").fetchall()
        raised = await commit_together(
            store,
            tmp_path,
            [
                Commit("chat/0", 2, 1, b"two"),
                Commit("chat/1", 1, 1, b"one"),
                Commit("chat/0", 3, 1, bytes(100 * KIB), {"a": b"1"}),
                Commit("chat/2", 1, 1, b"one"),
            ],
        )
        assert [type(error) for error in raised] == [type(None), type(None), StoreFull, type(None)]
        assert str(tmp_path) in str(raised[2])
        assert await loaded(store, "chat/0") == (2, (StoredSnapshot(2, b"two"), StoredSnapshot(1, b"one")))
        assert await store.get("chat/0", "a") is None
        assert await store.keys() == ["chat/0", "chat/1", "chat/2"]
        connection.execute("PRAGMA max_page_count = 1000000").fetchall()
        await store.commit(Commit("chat/0", 3, 1, bytes(100 * KIB), {"a": b"1"}))
        assert store.statistics().failures == 1


async def test_commits_that_queue_up_share_a_transaction(tmp_path: Path) -> None:
    """Whatever is handed over while the disk is busy becomes one transaction, stale commits apart."""
    async with DiskStore(tmp_path) as store:
        commits = [Commit(f"chat/{number}", 1, 1, b"one") for number in range(100)]
        commits += [
            Commit("chat/50", 1, 1, b"stale"),
            Commit("chat/50", 2, 1, b"two"),
            Commit("chat/51", 2, 1, destroy=True),
        ]
        commits += [Commit("chat/51", 3, 1, b"again")]
        raised = await commit_together(store, tmp_path, commits)
        assert [index for index, error in enumerate(raised) if error is not None] == [100]
        statistics = store.statistics()
        assert (statistics.commits, statistics.failures) == (103, 1)
        # The first commit may have been alone when the thread took it.
        assert statistics.transactions <= 2
        assert await loaded(store, "chat/50") == (2, (StoredSnapshot(2, b"two"), StoredSnapshot(1, b"one")))
        assert await loaded(store, "chat/51") == (3, (StoredSnapshot(3, b"again"),))


async def test_reads_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    """While a commit is on its way, reads have what was there before; `pending` counts it."""
    async with DiskStore(tmp_path) as store, trio.open_nursery() as nursery:
        await store.commit(Commit("chat/1", 1, 1, bytes(100 * KIB), {"a": b"1"}))
        with writing_stopped(tmp_path):
            nursery.start_soon(store.commit, Commit("chat/1", 2, 1, b"two", {"a": b"2"}))
            await trio.testing.wait_all_tasks_blocked()
            assert store.statistics().pending == 1
            assert await loaded(store, "chat/1") == (1, (StoredSnapshot(1, bytes(100 * KIB)),))
            assert await store.get("chat/1", "a") == b"1"


async def test_closing_waits_for_the_disk_but_stops_nothing_else(tmp_path: Path) -> None:
    """While `aclose` waits, other tasks run; then the commit has its outcome and the thread is gone."""
    store = DiskStore(tmp_path)
    await store.open()
    async with trio.open_nursery() as nursery:
        with writing_stopped(tmp_path):
            nursery.start_soon(store.commit, Commit("chat/1", 1, 1, b"one"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(store.aclose)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(StoreClosed):
                await store.commit(Commit("chat/1", 2, 1, b"two"))
    assert "trio_rooms store" not in {thread.name for thread in threading.enumerate()}
    assert not (tmp_path / f"{FILE_NAME}-wal").exists()
    async with store:
        assert await loaded(store, "chat/1") == (1, (StoredSnapshot(1, b"one"),))


async def test_an_unexpected_error_fails_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw fails the commit it came from; the thread and the rest go on."""
    write = commits.write

    def broken(connection: sqlite3.Connection, commit: Commit, epoch: int) -> None:
        write(connection, commit, epoch)
        if commit.key == "chat/2":
            msg = "a bug"
            raise RuntimeError(msg)

    monkeypatch.setattr(commits, "write", broken)
    async with DiskStore(tmp_path) as store:
        raised = await commit_together(
            store, tmp_path, [Commit(f"chat/{number}", 1, 1, b"one") for number in range(5)]
        )
        assert [error is None for error in raised] == [True, True, False, True, True]
        assert isinstance(raised[2], StoreError)
        assert isinstance(raised[2].__cause__, RuntimeError)
        assert await store.keys() == ["chat/0", "chat/1", "chat/3", "chat/4"]


async def test_a_writer_that_lost_its_connection_makes_another(tmp_path: Path) -> None:
    """A connection that has become useless fails what is committed on it, and not for ever."""
    async with DiskStore(tmp_path) as store:
        writer_connection(store).close()
        with pytest.raises(StoreError, match="closed database"):
            await store.commit(Commit("chat/1", 1, 1, b"one"))
        await store.commit(Commit("chat/1", 1, 1, b"one"))


async def test_a_failure_that_nobody_waits_for_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure of a commit whose caller was cancelled is told in the log."""
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        with caplog.at_level(logging.ERROR), trio.CancelScope() as scope:
            scope.cancel()
            await store.commit(Commit("chat/1", 1, 1, b"stale"))
        await store.commit(Commit("chat/1", 2, 1, b"two"))
    assert "room chat/1: the stored commit 1 is another" in caplog.text


async def test_a_directory_that_cannot_be_written_is_refused() -> None:
    """A directory or file without write permission is StoreReadOnly, and can still be looked at."""
    # Not tmp_path: run as root, the process becomes nobody, who could not even reach that.
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        closed, file = Path(temporary, "closed"), Path(temporary, "file")
        for directory in (closed, file):
            async with DiskStore(directory) as store:
                await store.commit(Commit("chat/1", 1, 1, b"one"))
            for path in directory.iterdir():
                path.chmod(0o444)
        closed.chmod(0o555)
        file.chmod(0o777)
        (file / "lock").chmod(0o666)
        with process("read_only", closed) as running:
            said = running.communicate()[0].splitlines()
        assert [line.split()[0] for line in said] == ["refused", "refused", "refused", "looked"]
        for line, directory in zip(said, (closed, closed, file), strict=False):
            assert f"cannot write to {directory}" in line
            assert "give the user" in line
        assert said[3] == "looked 1 ['chat/1']"
        closed.chmod(0o755)


async def test_read_only_looks_at_a_directory_in_use(tmp_path: Path) -> None:
    """A read-only store sees what the server commits, takes nothing and changes nothing."""
    async with DiskStore(tmp_path) as server, DiskStore(tmp_path, read_only=True) as tool:
        assert tool.epoch == server.epoch == 1
        await server.commit(Commit("chat/1", 1, 1, bytes(100 * KIB), {"a": b"1"}))
        assert await tool.load("chat/1") == await server.load("chat/1")
        assert await tool.list("chat/1") == [("a", b"1")]
        writes: list[Callable[[], Awaitable[object]]] = [
            lambda: tool.commit(Commit("chat/1", 2, 1, b"two")),
            lambda: tool.post([Post("ana", 1, b"", 1.0)]),
            lambda: tool.settle("ana", [1]),
        ]
        for write in writes:
            with pytest.raises(StoreReadOnly, match="read_only=True"):
                await write()
        assert tool.statistics().commits == 0
    async with DiskStore(tmp_path, read_only=True) as tool:
        assert await tool.keys() == ["chat/1"]
    async with DiskStore(tmp_path) as server:
        assert server.epoch == 2


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, lambda path: path.write_text("")])
async def test_read_only_needs_something_to_look_at(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A missing directory, an empty one, or a file is a clear error to a read-only store, and stays."""
    path = tmp_path / "data"
    make(path)
    with pytest.raises(StoreError, match=rf"no store in {path}"):
        await DiskStore(path, read_only=True).open()
    assert not (path / "lock").exists()


async def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """A path that is a file is a StoreError that names it."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(StoreError, match=str(tmp_path / "file")):
            await DiskStore(path).open()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("content", "says"),
    [(b"not a database" * 1000, "is damaged"), (b"short", "is damaged|not a store"), (None, "not a store")],
)
async def test_a_strange_file_is_refused(
    tmp_path: Path, content: bytes | None, says: str, read_only: bool
) -> None:
    """A file that is no database, or another program's, is refused with its path, and left as it is."""
    file = tmp_path / FILE_NAME
    if content is None:
        with contextlib.closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE theirs (a)")
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreError, match=f"{file}.*({says})"):
            await DiskStore(tmp_path, read_only=read_only).open()
    assert file.read_bytes() == before


async def test_a_damaged_page_is_told(tmp_path: Path) -> None:
    """Damage that shows only when it is read is a StoreError that names the file and says what to do."""
    async with DiskStore(tmp_path) as store:
        for number in range(100):
            await store.commit(Commit(f"chat/{number}", 1, 1, bytes(KIB)))
    file = tmp_path / FILE_NAME
    content = file.read_bytes()
    file.write_bytes(content[:8192] + b"\xff" * 4096 * 3 + content[8192 + 4096 * 3 :])
    async with DiskStore(tmp_path) as store:
        with pytest.raises(StoreError, match=rf"{file} is damaged.*backup"):
            await store.keys()


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_schema_is_refused(tmp_path: Path, read_only: bool) -> None:
    """A file that a newer version wrote is refused, and left as it is."""
    async with DiskStore(tmp_path):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as newer:
        newer.execute("PRAGMA user_version = 99")
    for _ in range(2):
        with pytest.raises(StoreError, match="newer version of trio_rooms: its schema is 99"):
            await DiskStore(tmp_path, read_only=read_only).open()


async def test_a_failed_opening_leaves_the_directory_free(tmp_path: Path) -> None:
    """A store that could not be opened holds no lock, and can be opened when its trouble is over."""
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 1000)
    store = DiskStore(tmp_path)
    with pytest.raises(StoreError):
        await store.open()
    (tmp_path / FILE_NAME).unlink()
    async with store:
        assert store.epoch == 1


async def test_a_cancelled_opening_leaves_the_directory_free(tmp_path: Path) -> None:
    """An opening that was cancelled before it began holds nothing."""
    store = DiskStore(tmp_path)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.open()
    async with DiskStore(tmp_path):
        pass
    async with store:
        pass


@pytest.mark.parametrize(("size", "inline"), [(256 * KIB, True), (256 * KIB + 1, False)])
async def test_large_reads_are_done_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, inline: bool
) -> None:
    """Documents and values of up to 256 KiB are read in the event loop, larger ones in a thread."""
    finished: list[bool] = []

    def watch(module: ModuleType, name: str) -> None:
        original: Callable[..., object] = getattr(module, name)

        def watched(*args: object, **rest: object) -> object:
            result = original(*args, **rest)
            finished.append(threading.current_thread() is threading.main_thread())
            return result

        monkeypatch.setattr(module, name, watched)

    for module, name in (
        (rooms, "read_room"),
        (rooms, "read_newest"),
        (storage, "read_value"),
        (storage, "read_list"),
        (sessions, "read_session"),
        (sessions, "read_sessions"),
        (sessions, "read_verdicts"),
        (journal, "read_journal"),
        (timers, "read_timer"),
        (timers, "read_timers"),
        (timers, "read_due_timers"),
    ):
        watch(module, name)
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, bytes(size), {"a": bytes(size)}))
        await store.load("chat/1")
        await store.get("chat/1", "a")
        await store.list("chat/1")
        await store.load("chat/1", newest=True)
        await store.commit(Commit("chat/1", 2, 1, b""))
        await store.load("chat/1")
        half = bytes(size - size // 2)
        await store.commit(Commit("chat/2", 1, 1, writes={"a": half, "b": bytes(size // 2)}))
        await store.list("chat/2")
        assert finished == [inline] * 6
        opened = RoomHalf(0, half, bytes(size // 2), Opening(b"", None, 0, 1.0))
        parts = (half, bytes(size // 2))
        await store.commit(
            Commit(
                "chat/3",
                1,
                1,
                entries=tuple(Entry(seq, b"", part, 1.0) for seq, part in enumerate(parts, 1)),
                seq=2,
                sessions={1: opened},
                verdicts=tuple(Verdict(1, id_, part) for id_, part in enumerate(parts, 1)),
                timers={
                    "1": Timer(1.0, half),
                    "2": Timer(2.0, bytes(size // 2)),
                    "3": Timer(3.0, bytes(size)),
                },
            )
        )
        await store.session("chat/3", 1)
        await store.sessions("chat/3")
        await store.verdicts("chat/3", 1)
        await store.journal("chat/3", 0, 2, 2**62)
        await store.timers("chat/3", limit=2)
        await store.timer("chat/3", "3")
        await store.due_timers("chat/3", 2.0, 10)
    assert finished == [inline] * 13


@pytest.mark.parametrize(("count", "inline"), [(63, True), (65, False), (3000, False)])
async def test_many_rows_are_read_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, inline: bool
) -> None:
    """What would hold the event loop up is read elsewhere, and all of it."""
    inside: dict[str, bool] = {}

    def watch(module: ModuleType, name: str) -> None:
        original: Callable[..., object] = getattr(module, name)

        def watched(*args: object, **rest: object) -> object:
            result = original(*args, **rest)
            inside[name] = threading.current_thread() is threading.main_thread()
            return result

        monkeypatch.setattr(module, name, watched)

    for module, name in (
        (sessions, "read_sessions"),
        (sessions, "read_positions"),
        (sessions, "read_verdicts"),
        (journal, "read_journal"),
        (timers, "read_timers"),
        (timers, "read_due"),
        (inboxes, "read_inbox"),
        (inboxes, "read_expired"),
        (inboxes, "read_sizes"),
    ):
        watch(module, name)
    numbers = range(1, count + 1)
    opened = RoomHalf(0, None, b"", Opening(b"", "ana", 0, 1.0))
    async with DiskStore(tmp_path) as store:
        await store.commit(
            Commit(
                "chat/1",
                1,
                1,
                entries=tuple(Entry(seq, b"", b"", 1.0) for seq in numbers),
                seq=count,
                sessions=dict.fromkeys(numbers, opened),
                links=dict.fromkeys(numbers, LinkHalf(0, 1e9, 1)),
                verdicts=tuple(Verdict(1, id_, b"") for id_ in numbers),
                timers={str(number): Timer(None, b"") for number in numbers},
                sends=tuple(
                    Post(user, number, b"", 1.0)
                    for number in numbers
                    for user in ("ana", str(number))
                    if user == "ana" or number < count
                ),
            )
        )
        assert len(await store.sessions("chat/1")) == count
        assert await store.positions("chat/1") == {1: count}
        assert len(await store.verdicts("chat/1", 1)) == count
        assert len(await store.journal("chat/1", 0, count, 2**62)) == min(count, 1000)
        assert len(await store.timers("chat/1")) == count
        assert len(await store.due(1e10, 10_000)) == count
        assert len(await store.inbox("ana")) == count
        assert len(await store.expired(1.0, count)) == count
        assert len(await store.inboxes()) == count
    assert set(inside.values()) == {inline}
    assert len(inside) == 9


def all_statements() -> Iterator[tuple[str, str]]:
    """Every statement that is run on an open file, and its name."""
    for module in (commits, database, inboxes, journal, rooms, sessions, storage, timers):
        for name, value in vars(module).items():
            for number, statement in enumerate(value if isinstance(value, tuple) else (value,)):
                if isinstance(statement, str) and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE) ", statement):
                    yield f"{module.__name__.rpartition('.')[2]}.{name}.{number}", statement


STATEMENTS = dict(all_statements())


@pytest.mark.parametrize("name", STATEMENTS)
async def test_statements_use_an_index(tmp_path: Path, name: str) -> None:
    """No statement reads rows that it does not want: everything is found by an index, in its order."""
    statement = STATEMENTS[name]
    named = dict.fromkeys(re.findall(r":([a-z]+)", statement), 1)
    async with DiskStore(tmp_path) as store:
        connection = writer_connection(store)
        plan = [
            row[3].decode()
            for row in connection.execute(
                f"EXPLAIN QUERY PLAN {statement}", [b""] * statement.count("?") or named
            )
        ]
    # The table store has one row.
    scans = [step for step in plan if step.startswith("SCAN")]
    assert not {*scans} - {"SCAN CONSTANT ROW", "SCAN store"}
    assert not [step for step in plan if "TEMP B-TREE" in step]
    for table, within in RANGES.get(name, ()):
        assert any(f" {table} " in step and step.endswith(within) for step in plan), plan


RANGES = {
    "database._GIVE_UP.0": [("sessions", "INDEX sessions_until (until=?)")],
    "inboxes._EXPIRED.0": [("messages", "INDEX messages_expires ((expires,position)>(?,?) AND expires<?)")],
    "inboxes._INBOX.0": [("messages", "(inbox=? AND position>?)")],
    "inboxes._SIZES.0": [("inboxes", "(user>? AND user<?)")],
    "journal._JOURNAL.0": [("journal", "(room=? AND seq>? AND seq<?)")],
    "rooms._KEYS.0": [("rooms", "(key>? AND key<?)")],
    "sessions._ENDED_SESSIONS.0": [("sessions", "INDEX sessions_over (over_in=? AND sid>?)")],
    "sessions._FEW_POSITIONS.0": [("sessions", "COVERING INDEX sessions_held (room=? AND held>?)")],
    "sessions._POSITIONS.0": [("sessions", "COVERING INDEX sessions_held (room=? AND held>?)")],
    "sessions._SESSIONS.0": [("sessions", "(room=? AND sid>?)")],
    "sessions._SESSIONS_OF.0": [("sessions", "INDEX sessions_user (user=? AND (room,sid)>(?,?))")],
    "storage._LIST.0": [("storage", "(room=? AND name>? AND name<?)")],
    "timers._ROOMS.0": [("rooms", "INDEX rooms_lapses (lapses>? AND lapses<?)")],
    "timers._DUE_TIMERS.0": [("timers", "INDEX timers_room (room=? AND due<?)")],
    "timers._SESSIONS.0": [("sessions", "INDEX sessions_until ((until,room,sid)>(?,?,?) AND until<?)")],
    "timers._TIMERS.0": [("timers", "(room=? AND name>? AND name<?)")],
    "timers._TIMERS_OF_ALL.0": [("timers", "COVERING INDEX timers_due ((due,room,name)>(?,?,?) AND due<?)")],
}
"""Where a range is read, or a special index: the table, and how."""


async def test_a_process_that_lost_its_directory_is_refused(tmp_path: Path) -> None:
    """Whoever takes the directory in spite of the lock is the only one to write from then on."""
    async with DiskStore(tmp_path) as first:
        await first.commit(Commit("chat/1", 1, 1, b"one"))
        (tmp_path / "lock").unlink()
        async with DiskStore(tmp_path) as second:
            assert (first.epoch, second.epoch) == (1, 2)
            for number in (1, 2):
                with pytest.raises(StaleWrite, match="epoch 1 is refused, the store has epoch 2"):
                    await first.commit(Commit("chat/1", number, first.epoch, b"one"))
                with pytest.raises(StaleWrite, match=f"{tmp_path}.* has epoch 2, this store 1"):
                    await first.post([Post("ana", number, b"", 1.0)])
            await second.post([Post("ana", 3, b"", 1.0)])
            with pytest.raises(StaleWrite):
                await first.settle("ana", [3])
            assert [one.post.id for one in await first.inbox("ana")] == [3]
            await second.commit(Commit("chat/1", 2, second.epoch, b"two"))
        assert (await first.head("chat/1")).number == 2


async def test_ended_rooms_are_forgotten_at_the_next_opening(tmp_path: Path) -> None:
    """The number of a room that ended is kept until the store is opened for writing again, and no longer."""
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        await store.commit(Commit("chat/1", 2, 1, destroy=True))
        async with DiskStore(tmp_path, read_only=True) as tool:
            assert await loaded(tool, "chat/1") == (2, ())
    async with DiskStore(tmp_path, read_only=True) as tool:
        assert await loaded(tool, "chat/1") == (2, ())
    async with DiskStore(tmp_path) as store:
        assert await loaded(store, "chat/1") == (0, ())


async def test_so_many_ended_rooms_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that ended first is forgotten first; one that has begun again and ended counts as new."""
    monkeypatch.setattr(writer, "MOST_ENDED", 3)
    async with DiskStore(tmp_path) as store:
        for number in range(20):
            await store.commit(Commit(f"chat/{number}", 1, 1, destroy=True))
            (count,) = writer_connection(store).execute("SELECT count(*) FROM ended").fetchone()
            assert count == min(number + 1, 3)
        await store.commit(Commit("chat/17", 2, 1, b"again"))
        for number, key in ((3, "chat/17"), (1, "chat/20"), (1, "chat/21")):
            await store.commit(Commit(key, number, 1, destroy=True))
        assert [(await store.head(f"chat/{number}")).number for number in range(16, 22)] == [0, 3, 0, 0, 1, 1]
        await store.commit(Commit("chat/18", 1, 1, b"again"))
        assert (await store.head("chat/18")).number == 1


# What happens to the files under an open store.


def gone(directory: Path) -> None:
    """Nothing of it is left."""
    shutil.rmtree(directory)


def renamed(directory: Path) -> None:
    """It is somewhere else."""
    directory.rename(directory.with_name("moved"))


def replaced(directory: Path) -> None:
    """Another file has the name of the database."""
    shutil.copy(directory / FILE_NAME, directory / "copy")
    (directory / "copy").rename(directory / FILE_NAME)


def without_log(directory: Path) -> None:
    """Somebody has tidied up."""
    (directory / f"{FILE_NAME}-wal").unlink()


@pytest.mark.parametrize("happens", [gone, renamed, replaced, without_log])
async def test_what_is_written_beside_the_directory_is_not_durable(
    happens: Callable[[Path], None], tmp_path: Path
) -> None:
    """A commit fails whose file is not where it will be looked for, alone or in a group; refusals stay."""
    directory = tmp_path / "data"
    async with DiskStore(directory) as store:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        happens(directory)
        two = Commit("chat/1", 2, 1, b"two")
        for _ in range(2):
            with pytest.raises(StoreError, match=f"{directory}.* while it was open"):
                await store.commit(two)
        with pytest.raises(StaleWrite):
            await store.commit(Commit("chat/1", 7, 1, b"seven"))
        assert store.statistics().failures == 3
        assert store.statistics().commits == 1


async def test_a_directory_that_is_put_back_is_written_again(tmp_path: Path) -> None:
    """With all that was written to it meanwhile."""
    directory = tmp_path / "data"
    async with DiskStore(directory) as store:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        renamed(directory)
        two = Commit("chat/1", 2, 1, b"two")
        with pytest.raises(StoreError):
            await store.commit(two)
        directory.with_name("moved").rename(directory)
        await store.commit(two)
        await store.commit(Commit("chat/1", 3, 1, b"three"))
    async with DiskStore(directory) as store:
        assert (await store.head("chat/1")).number == 3


async def test_a_lock_that_was_removed_is_taken_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the next commit, and said; so the directory has one owner all the time."""
    before = len([*Path("/proc/self/fd").iterdir()]) if sys.platform == "linux" else 0
    async with DiskStore(tmp_path) as store:
        for number in (1, 2, 3):
            (tmp_path / "lock").unlink()
            await store.commit(Commit("chat/1", number, 1, b"one"))
            with pytest.raises(StoreInUse, match=f"process \\({os.getpid()}"):
                await DiskStore(tmp_path).open()
        assert len([one for one in caplog.records if "is taken again" in one.getMessage()]) == 3
    async with DiskStore(tmp_path):
        pass
    if sys.platform == "linux":
        assert len([*Path("/proc/self/fd").iterdir()]) == before


async def test_a_lock_that_somebody_else_has_taken_is_told(tmp_path: Path) -> None:
    """Where the other has not opened the store yet, or does not mean to."""
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        (tmp_path / "lock").unlink()
        other = DirectoryLock.acquire(tmp_path)
        two = Commit("chat/1", 2, 1, b"two")
        with pytest.raises(StoreInUse):
            await store.commit(two)
        other.release()
        (tmp_path / "lock").unlink()
        await store.commit(two)


# What is damaged in the file.


def change(directory: Path, statement: str, *values: object) -> None:
    """Change the file from outside, while nobody has it open."""
    with contextlib.closing(sqlite3.connect(directory / FILE_NAME)) as outside, outside:
        assert outside.execute(statement, values).rowcount == 1


@pytest.mark.parametrize("found", ["CAST(document AS TEXT)", "5", "1.5", "''"])
async def test_a_document_of_any_type_leaves_the_other(found: str, tmp_path: Path) -> None:
    """One flipped bit makes a TEXT of a BLOB; its bytes are read as they are, and all else is damaged."""
    large = b"\xff" * 300_000
    async with DiskStore(tmp_path) as store:
        for number in (1, 2):
            await store.commit(Commit("chat/1", number, 1, large))
    change(tmp_path, f"UPDATE snapshots SET document = {found} WHERE generation = 2")  # noqa: S608
    for read_only in (True, False):
        async with DiskStore(tmp_path, read_only=read_only) as store:
            newest, before = (await store.load("chat/1")).snapshots
            assert (await store.load("chat/1", newest=True)).snapshots == (newest,)
            assert before == StoredSnapshot(1, large)
            if found.startswith("CAST"):
                assert newest == StoredSnapshot(2, large)
            elif found == "''":
                assert newest == StoredSnapshot(2, b"")
            else:
                assert newest.document == b""
                assert newest.damage.startswith("row 3 of the table snapshots is damaged")


async def test_a_document_whose_pages_are_lost_leaves_the_other(tmp_path: Path) -> None:
    """SQLite says that the file is damaged; that is said of this one, and the room goes on."""
    large, lost = b"\x11" * 50_000, b"\x22" * 50_000
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, large))
        await store.commit(Commit("chat/1", 2, 1, lost))
    file = tmp_path / FILE_NAME
    content = file.read_bytes()
    page = content.find(b"\x22" * 4000) // 4096 * 4096  # The first of its pages that has nothing else.
    assert page > 0
    file.write_bytes(content[:page] + b"\xff" * 4 + content[page + 4 :])
    async with DiskStore(tmp_path) as store:
        newest, before = (await store.load("chat/1")).snapshots
        assert before == StoredSnapshot(1, large)
        assert newest.generation == 2
        assert newest.damage
        assert newest.document == b""
        assert (await store.load("chat/1", newest=True)).snapshots == (newest,)
        await store.commit(Commit("chat/1", 3, 2, large))
        assert (await store.load("chat/1")).snapshots[0] == StoredSnapshot(3, large)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE snapshots SET generation = 'x' WHERE generation = 2", "snapshots.generation of row"),
        ("UPDATE rooms SET number = x'00'", "rooms.number"),
    ],
)
async def test_a_number_that_is_none_is_told(statement: str, message: str, tmp_path: Path) -> None:
    """Reading and writing name the room; nothing is written under a number that is a guess."""
    async with DiskStore(tmp_path) as store:
        for number in (1, 2):
            await store.commit(Commit("chat/1", number, 1, b"one"))
    change(tmp_path, statement)
    async with DiskStore(tmp_path) as store:
        with pytest.raises(StoreError, match=f"room chat/1: {message}.* is damaged"):
            await store.load("chat/1")
        with pytest.raises(StoreError, match=f"room chat/1: {message}.* is damaged"):
            await store.load("chat/1", newest=True)
        for number in (1, 2, 3):
            with pytest.raises(StoreError, match=r"room chat/1: .* is damaged"):
                await store.commit(Commit("chat/1", number, 2, b"three"))
        await store.commit(Commit("chat/2", 1, 2, b"one"))


@pytest.mark.parametrize("large", [False, True])
async def test_a_value_that_is_damaged_is_named(large: bool, tmp_path: Path) -> None:
    """Of the wrong type it is an error with the room and the name; a TEXT has the bytes that were written."""
    value = b"\xff" * (300_000 if large else 10)
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, writes={"a": value, "b": value, "c": value}))
    change(tmp_path, "UPDATE storage SET value = 5 WHERE name = ?", b"a")
    change(tmp_path, "UPDATE storage SET value = CAST(value AS TEXT) WHERE name = ?", b"b")
    async with DiskStore(tmp_path) as store:
        assert await store.get("chat/1", "b") == value
        assert await store.list("chat/1", "b") == [("b", value)]
        for read in (store.get("chat/1", "a"), store.list("chat/1")):
            with pytest.raises(StoreError, match="room chat/1: the value of b'a' in storage is damaged"):
                await read
        await store.commit(Commit("chat/1", 2, 2, writes={"a": None}))
        assert await store.list("chat/1") == [("b", value), ("c", value)]


async def test_a_name_that_is_damaged_is_told(tmp_path: Path) -> None:
    """What is no UTF-8 is no name and no key."""
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, writes={"a": b"1"}))
    change(tmp_path, "UPDATE storage SET name = ?", b"z\xfe")
    async with DiskStore(tmp_path) as store:
        with pytest.raises(StoreError, match=r"room chat/1: the name of a value in storage is damaged"):
            await store.list("chat/1", after="y")
    change(tmp_path, "UPDATE rooms SET key = ?", b"chat/\xfe")
    async with DiskStore(tmp_path) as store:
        with pytest.raises(StoreError, match=r"its key is damaged: it is b'chat/\\xfe'"):
            await store.keys()


@pytest.mark.parametrize(
    ("table", "column", "what"),
    [
        ("journal", "body", "entry 1 of its journal"),
        ("journal", "time", "entry 1 of its journal"),
        ("sessions", "token", "session 1"),
        ("sessions", "attachment", "session 1"),
        ("sessions", "channels", "session 1"),
        ("sessions", "until", "session 1"),
        ("sessions", "link", "session 1"),
        ("verdicts", "content", "a verdict of session 1"),
        ("timers", "content", "the timer b't'"),
        ("timers", "name", "the name of a timer"),
    ],
)
async def test_what_is_damaged_of_the_rest_is_named(
    table: str, column: str, what: str, tmp_path: Path
) -> None:
    """An error with the room, and with what of it; a TEXT has the bytes that were written."""
    session = RoomHalf(1, b"at", b"ch", Opening(b"to", "ana", 0, 1.0))
    commit = Commit(
        "chat/1",
        1,
        1,
        b"one",
        entries=(Entry(1, b"all", b"body", 1.0),),
        seq=1,
        sessions={1: session},
        links={1: LinkHalf(0, 1e12, 1)},
        verdicts=(Verdict(1, 1, b"done"),),
        timers={"t": Timer(5.0, b"what")},
    )
    async with DiskStore(tmp_path) as store:
        await store.commit(commit)
    blob = column in {"body", "token", "attachment", "channels", "content"}
    if blob:
        change(tmp_path, f"UPDATE {table} SET {column} = CAST({column} AS TEXT)")  # noqa: S608
        async with DiskStore(tmp_path) as store:
            assert await store.journal("chat/1", 0, 9, 9) == [*commit.entries]
            assert await store.session("chat/1", 1) == StoredSession(1, session, commit.links[1])
            assert await store.verdicts("chat/1", 1) == {1: b"done"}
            assert await store.timer("chat/1", "t") == commit.timers["t"]
    change(tmp_path, f"UPDATE {table} SET {column} = {5 if blob else chr(39) + 'x' + chr(39)}")  # noqa: S608
    if column == "name":
        change(tmp_path, "UPDATE timers SET name = ?", b"z\xfe")
    async with DiskStore(tmp_path) as store:
        reads: dict[str, list[Callable[[], Awaitable[object]]]] = {
            "journal": [lambda: store.journal("chat/1", 0, 9, 9)],
            "sessions": [lambda: store.session("chat/1", 1), lambda: store.sessions("chat/1")],
            "verdicts": [lambda: store.verdicts("chat/1", 1)],
            "timers": [
                lambda: store.timers("chat/1"),
                lambda: store.due_timers("chat/1", 9.0, 9),
                *([lambda: store.due(9.0, 9)] if column == "name" else []),
            ],
        }
        for name, some in reads.items():
            for read in some:
                if name == table:
                    with pytest.raises(StoreError, match=f"room chat/1: {what} is damaged"):
                        await read()
                else:
                    await read()
        # It can be destroyed, and begins again.
        await store.commit(Commit("chat/1", 2, store.epoch, destroy=True))
        await store.commit(attrs.evolve(commit, number=3, epoch=store.epoch))
        assert await store.session("chat/1", 1) == StoredSession(1, session, commit.links[1])


@pytest.mark.parametrize("column", ["position", "expires", "priority", "room", "offer_sid", "body"])
async def test_a_message_that_is_damaged_is_told(column: str, tmp_path: Path) -> None:
    """With whose it is; it can be settled, and then all is well."""
    good, bad = Post("ana", 1, b"body", 1.0), Post("ana", 2, b"body", 2.0, 2, "chat/1")
    offer = Offer("ana", "chat/1", 1, 1)
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, b"one", sends=(good, bad), offers={2: offer}))
    change(tmp_path, "UPDATE messages SET body = CAST(body AS TEXT) WHERE id = 2")
    async with DiskStore(tmp_path) as store:
        assert (await store.inbox("ana"))[1] == Waiting(2, bad, offer)
    change(tmp_path, f"UPDATE messages SET {column} = 'x' WHERE id = 2")  # noqa: S608
    if column in {"room", "body"}:
        change(tmp_path, f"UPDATE messages SET {column} = 7.5 WHERE id = 2")  # noqa: S608
    async with DiskStore(tmp_path) as store:
        reads: list[Callable[[], Awaitable[object]]] = [lambda: store.inbox("ana")]
        if column != "expires":
            reads.append(lambda: store.expired(math.inf, 9))
        for read in reads:
            with pytest.raises(StoreError, match="the inbox of user ana: message 2 is damaged"):
                await read()
        assert [one.post for one in await store.inbox("ana", limit=1)] == [good]
        await store.settle("ana", [2])
        assert [one.post for one in await store.inbox("ana")] == [good]


async def test_how_much_waits_is_told_where_it_is_damaged(tmp_path: Path) -> None:
    """It is not guessed, neither by who asks nor by who posts; settled, all of it is gone."""
    async with DiskStore(tmp_path) as store:
        await store.post([Post("ana", 1, b"", 1.0), Post("b\xf6", 1, b"", 1.0)])
    change(tmp_path, "UPDATE inboxes SET count = 'x' WHERE user = ?", b"ana")
    async with DiskStore(tmp_path) as store:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.inbox_size("ana"),
            store.inboxes,
            lambda: store.post([Post("b\xf6", 2, b"", 1.0), Post("ana", 2, b"", 1.0)]),
            lambda: store.settle("ana", [1]),
        ]
        for call in calls:
            with pytest.raises(StoreError, match="the inbox of user ana: how much waits is damaged"):
                await call()
        assert await store.inbox_size("b\xf6") == InboxSize(1, 50)
    change(tmp_path, "UPDATE inboxes SET count = 1, user = ? WHERE user = ?", b"\xfe", b"ana")
    async with DiskStore(tmp_path) as store:
        with pytest.raises(StoreError, match=r"the inbox of user \\xfe: a name is damaged"):
            await store.inboxes()


@pytest.mark.parametrize("column", ["seq", "nonce", "floor", "lapses"])
async def test_a_head_that_is_damaged_is_told(column: str, tmp_path: Path) -> None:
    """No number of it is a guess."""
    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, seq=5, timers={"t": Timer(1.0, b"")}))
    change(tmp_path, f"UPDATE rooms SET {column} = x'00'")  # noqa: S608
    async with DiskStore(tmp_path) as store:
        for read in (store.head, store.load):
            with pytest.raises(StoreError, match="room chat/1: its head is damaged"):
                await read("chat/1")


async def test_a_room_that_begins_again_has_ended_no_more(tmp_path: Path) -> None:
    """A room's number is kept in one place."""
    async with DiskStore(tmp_path) as store:
        for number in (1, 3):
            await store.commit(Commit("chat/1", number, 1, b"one"))
            ended = writer_connection(store).execute("SELECT count(*) FROM ended")
            assert ended.fetchone() == (0,)
            await store.commit(Commit("chat/1", number + 1, 1, destroy=True))


async def test_a_refused_commit_leaves_no_cycle(tmp_path: Path) -> None:
    """What waited for a commit that failed is freed at once, without the garbage collector."""

    class Caller:
        async def commit(self, store: DiskStore, commit: Commit) -> type[BaseException] | None:
            try:
                await store.commit(commit)
            except StoreError as exc:
                return type(exc)
            return None

    async with DiskStore(tmp_path) as store:
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        pages = writer_connection(store).execute("PRAGMA page_count").fetchone()[0]
        writer_connection(store).execute(f"PRAGMA max_page_count = {pages + 4}").fetchall()
        for commit, expected in (
            (Commit("chat/1", 1, 1, b"stale"), StaleWrite),
            (Commit("chat/1", 2, 1, bytes(100 * KIB)), StoreFull),
        ):
            gc.collect()
            gc.disable()
            try:
                caller = Caller()
                freed = weakref.ref(caller)
                assert await caller.commit(store, commit) is expected
                await trio.testing.wait_all_tasks_blocked()
                del caller
                assert freed() is None
            finally:
                gc.enable()


async def test_the_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    """The write-ahead log is written from its beginning again and again."""
    async with DiskStore(tmp_path) as store:
        for generation in range(1, 201):
            await store.commit(Commit("chat/1", generation, 1, bytes(100 * KIB)))
        assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size < 5000 * KIB


async def test_a_large_read_that_comes_too_late_finds_the_store_closed(tmp_path: Path) -> None:
    """A read that waits for its turn while the store is closed raises StoreClosed."""
    raised: list[BaseException] = []

    async def load(store: DiskStore) -> None:
        try:
            await store.load("chat/1")
        except StoreClosed as exc:
            raised.append(exc)

    store = DiskStore(tmp_path)
    async with store, trio.open_nursery() as nursery:
        await store.commit(Commit("chat/1", 1, 1, bytes(300 * KIB)))
        assert store._opened is not None
        limiter = store._opened.limiter
        async with limiter:
            nursery.start_soon(load, store)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(store.aclose)
            await trio.testing.wait_all_tasks_blocked()
    assert len(raised) == 1
