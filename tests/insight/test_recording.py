"""Recording what clients send: who may, what is in it, and where it ends."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import cbor2
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.insight.lives import hall
from trio_rooms import Context, Room, Rooms, open_rooms
from trio_rooms._insight import recording
from trio_rooms._metrics.trace import APART
from trio_rooms._server.admin import Errand
from trio_rooms._server.pages import Pages
from trio_rooms._server.paths import Paths
from trio_rooms._wire.handshake import Response
from trio_rooms.testing import connect


class Asked:
    """The pages of open rooms, as somebody with the token sees them."""

    def __init__(self, rooms: Rooms) -> None:
        definitions = rooms._definitions
        paths = Paths(definitions, "", "/{room}/{id}")
        self._pages = Pages(definitions, paths, rooms._supervisor.placement, rooms.statistics, rooms._insight)

    def answer(self, path: str, method: str = "GET", *, insider: bool = True) -> Response | None:
        """What is answered."""
        answer = self._pages.answer(method, path, {}, insider=insider)
        assert not isinstance(answer, Errand)
        return answer

    def items(self, path: str) -> list[Any]:
        """What is fetched."""
        answer = self.answer(path)
        assert answer is not None
        assert (answer.status, answer.kind) == (200, "application/cbor-seq")
        decoder, found = cbor2.CBORDecoder(io.BytesIO(answer.body)), []
        while True:
            try:
                found.append(decoder.decode())
            except cbor2.CBORDecodeEOF:
                return found

    def begin(self) -> str:
        """The path of a recording that begins."""
        (header,) = self.items("/trace")
        return f"/trace/{header['recording']}"


@asynccontextmanager
async def asked(*rooms: Room[Any]) -> AsyncIterator[tuple[Rooms, Asked]]:
    """Open rooms, and their pages."""
    async with open_rooms(rooms) as opened:
        yield opened, Asked(opened)


async def test_each_message_is_a_row(autojump_clock: MockClock) -> None:
    """With its time, room, connection and bytes; also who was there, who comes, and who leaves."""
    async with asked(hall(idle_timeout=20, connection_idle_timeout=5)) as (rooms, pages):
        async with connect(rooms, "hall/a"), connect(rooms, "hall/a") as active, connect(rooms, "hall/b"):
            await trio.sleep(10)
            await active.send("first")
            await trio.sleep(2)
            (header,) = pages.items("/trace")
            assert header["format"] == "trio-rooms.trace.1"
            assert header["policies"]["hall"] == {
                "idle_timeout": 20,
                "connection_idle_timeout": 5,
                "message_threshold": 10,
                "activity_window": 20,
            }
            path = f"/trace/{header['recording']}"
            await trio.sleep(1)
            before = pages.items(path)
            ids = {row[2] for row in before if row[1] == "hall/a" and row[2] is not None}
            assert len(ids) == 2
            (number,) = {row[2] for row in before if row[3] == 0 and row[2] is not None}
            used = [row for row in before if row[1] == "hall/a"][2:]
            assert [-2, "hall/a", number, 0] in used
            assert [-2, "hall/a", None, 0] in used
            assert all(row[0] <= -2 for row in before if row[1] == "hall/a")
            await active.send("é")
            await active.send(b"12345")
            await wait_all_tasks_blocked()
            async with connect(rooms, "hall/b"):
                await trio.sleep(1)
            await trio.sleep(1)
            rows = pages.items(path)
            assert rows[:2] == [[1, "hall/a", number, 2], [1, "hall/a", number, 5]]
            came, gone = rows[2:]
            assert came[:2] + came[3:] == [1, "hall/b", "here"]
            assert gone == [2, "hall/b", came[2], "gone"]
            assert pages.items(path) == []
        last = pages.items(f"{path}/end")
        assert [row[3] for row in last[:-1] if row[2] is not None] == ["gone"] * 3
        assert last[-1] == {"end": pytest.approx(3)}
        assert rooms._hub.trace.recorder is None
        assert "take" not in vars(rooms._hub)


async def test_what_no_client_sent_is_a_row(autojump_clock: MockClock) -> None:
    """A room that is asked by the program has something to do, with nobody in it."""
    room: Room[None] = Room("quiz")

    @room.on("ask")
    async def ask(_ctx: Context[None], _data: Any) -> None:
        """Nothing."""

    async with asked(room) as (rooms, pages):
        path = pages.begin()
        await rooms.get("quiz", "x").ask("ask")
        for _ in range(6):
            await trio.sleep(0.5)
            await rooms.get("quiz", "x").ask("ask")
        await trio.sleep(5)
        rows = pages.items(path)
        times = [row.pop(0) for row in rows]
        assert rows == [["quiz/x", None, 0]] * len(rows)
        assert times == sorted(times)
        assert times[0] == 0
        assert times[-1] >= 3 - APART


async def test_only_insiders_record_one_at_a_time(autojump_clock: MockClock) -> None:
    """And only with GET; one that nobody fetches ends."""
    async with asked(hall()) as (rooms, pages):
        assert pages.answer("/trace", insider=False) is None
        for method in ("HEAD", "POST", "OPTIONS"):
            assert pages.answer("/trace", method) is None
        path = pages.begin()
        busy = pages.answer("/trace")
        assert busy is not None
        assert busy.status == 503
        for _ in range(3):
            await trio.sleep(14)
            assert pages.items(path) == []
        await trio.sleep(16)
        assert rooms._hub.trace.recorder is None
        for gone in (path, f"{path}/end", "/trace/0123456789abcdef"):
            answer = pages.answer(gone)
            assert answer is not None
            assert answer.status == 404
        assert pages.answer("/trace/x") is None
        await trio.sleep(1)
        pages.items(f"{pages.begin()}/end")
        pages.begin()


async def test_what_nobody_fetches_is_lost(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is kept than there is place for, and it is said how much was not."""
    monkeypatch.setattr(recording, "_MOST", 100)
    async with asked(hall()) as (rooms, pages), connect(rooms, "hall/a") as client:
        await trio.sleep(1)
        path = pages.begin()
        await trio.sleep(1)
        pages.items(path)
        for _ in range(50):
            await client.send("x")
        await trio.sleep(1)
        *rows, lost = pages.items(path)
        assert lost == {"lost": 50 - len(rows)}
        assert 0 < len(rows) <= 5
        await client.send("x")
        await trio.sleep(1)
        assert len(pages.items(path)) == 1


async def test_what_waits_takes_no_more_than_that(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are small, and many: what each had beside its bytes would be several times as much."""
    monkeypatch.setattr(recording, "_MOST", 1_000_000)
    async with asked(hall()) as (rooms, pages):
        path, recorder = pages.begin(), rooms._hub.trace.recorder
        assert recorder is not None
        await trio.sleep(1)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(60_000):
                recorder.worked("hall/a", float(number))
            assert tracemalloc.get_traced_memory()[0] - before < 1_300_000
        finally:
            tracemalloc.stop()
        *rows, lost, _ = pages.items(f"{path}/end")
        assert lost == {"lost": 60_000 - len(rows)}
        assert rows[-1] == [pytest.approx(len(rows) - 1), "hall/a", None, 0]


async def test_rooms_that_clients_are_not_to_know_of_are_in_no_row(autojump_clock: MockClock) -> None:
    """Neither what they do, nor that they are there, nor their policies."""
    secret: Room[None] = Room("secret", public=False)

    @secret.on("work")
    async def work(_ctx: Context[None]) -> None:
        await trio.sleep(3)

    async with asked(hall(), secret) as (rooms, pages), connect(rooms, "hall/a") as client:
        await rooms.get("secret", "before").ask("work")
        (header,) = pages.items("/trace")
        assert [*header["policies"]] == ["hall"]
        await client.send("x")
        await rooms.get("secret", "after").ask("work")
        await trio.sleep(1)
        rows = pages.items(f"/trace/{header['recording']}/end")
        assert {row[1] for row in rows[:-1]} == {"hall/a"}
        assert [*rows[-1]] == ["end"]


async def test_many_who_were_there_are_told_of_a_few_at_a_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens in a room meanwhile comes behind those who are in it."""
    monkeypatch.setattr(recording, "_AT_ONCE", 1)
    async with asked(hall()) as (rooms, pages), trio.open_nursery() as nursery:
        clients = {}

        async def stay(number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with connect(rooms, f"hall/{number}") as client:
                clients[number] = client
                task_status.started()
                await trio.sleep_forever()

        for number in range(10):
            await nursery.start(stay, number)
        await trio.sleep(1)
        path = pages.begin()
        await clients[9].send("x")
        rows = pages.items(path)
        await trio.sleep(1)
        rows += pages.items(path)
        assert [row[3] for row in rows if row[1] == "hall/9"] == ["here", 1]
        assert len(rows) == 11
        nursery.cancel_scope.cancel()
