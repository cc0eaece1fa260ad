"""Clients of ledgers whose server is killed with SIGKILL again and again, and what becomes of their money."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final, Literal

import attrs
import trio

from benchmarks.servers.ledger import FIRED
from benchmarks.suite.ledgers import Account, Member, Wrong
from benchmarks.suite.processes import ROOT
from trio_rooms.client import RemoteRoom, connect_room

__all__ = [
    "Crowd",
    "Server",
    "Tally",
    "check_fired",
    "first_wrong",
    "free_port",
    "kill_again_and_again",
    "started",
]

_LIVES: Final = (0.0, 0.5)
"""Seconds, from and to, that a server lives once it listens."""
_AT_START: Final = 0.1
"""The share of kills that do not wait until it listens."""
_STARTS: Final = (0.0, 0.05)
_PAUSES: Final = (0.0, 0.4)
"""Seconds in which a client does nothing now and then: a ledger falls asleep after 0.1."""
_AT_ONCE: Final = 5
"""What a client asks for together."""
_STAYS: Final = 40
"""Turns after which a client may leave, and come again with another session."""
_DUE: Final = (0.0, 1.0)
_ENDING: Final = 60.0
"""Seconds until everything must have come that was asked for, once nobody is killed any more."""
_PATIENCE: Final = 30.0


@attrs.define
class Tally:
    """What happened."""

    kills: int = 0
    at_start: int = 0
    """Kills before it listened."""
    asked: int = 0
    """Amounts that clients asked for, at once or later."""
    scheduled: int = 0
    """Of them those that were to be added later."""
    tries: int = 0
    """How often something that was due was begun."""
    sessions: int = 0
    heard: int = 0
    """Balances that came to clients."""
    interrupted: int = 0
    """How often a client was without a connection."""

    def __str__(self) -> str:
        return (
            f"{self.kills:,} kills, {self.at_start:,} of them before it listened; {self.asked:,} amounts "
            f"asked for, {self.scheduled:,} of them for later, which took {self.tries:,} tries; "
            f"{self.sessions:,} sessions with {self.interrupted:,} interruptions, which heard "
            f"{self.heard:,} balances"
        )


class Server:
    """A server on one port, that ends and starts again."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self._process = process
        self._unread = b""
        self.port: Final = port

    async def start(self) -> None:
        """Start it; returns at once."""
        await self._tell("start")

    async def wait_listening(self, patience: float = _PATIENCE) -> None:
        """Wait until it listens.

        Raises:
            Wrong: it said something else.
            trio.TooSlowError: it did not within so many seconds.
        """
        told = await self._line(patience)
        if not told.startswith("listening on "):
            raise Wrong(f"the server said {told!r}")

    async def kill(self) -> None:
        """Kill it, and wait until it is gone.

        Raises:
            Wrong: it had ended before.
        """
        await self._end("kill", -signal.SIGKILL)

    async def stop(self) -> None:
        """Stop it in order."""
        await self._end("stop", 0)

    async def pause(self) -> None:
        """Let it do nothing."""
        await self._tell("pause")

    async def go_on(self) -> None:
        """Let it go on after a pause."""
        await self._tell("continue")

    async def _end(self, command: str, wanted: int) -> None:
        await self._tell(command)
        told = await self._line()
        if told.startswith("listening on "):  # It just did.
            told = await self._line()
        if told != str(wanted):
            raise Wrong(f"the server ended with {told}")

    async def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(command.encode() + b"\n")

    async def _line(self, patience: float = _PATIENCE) -> str:
        assert self._process.stdout is not None
        with trio.fail_after(patience):
            while b"\n" not in self._unread:
                data = await self._process.stdout.receive_some()
                if not data:
                    raise Wrong(f"the server's parent ended with {await self._process.wait()}")
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()


def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def started(module: str, *arguments: str, port: int, log: Path) -> AsyncIterator[Server]:
    """Whoever starts servers as `benchmarks.servers.forking` does; all is gone at the end of the block."""
    command = [sys.executable, "-m", module, *arguments]
    with log.open("ab") as errors:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Server(process, port)
    finally:
        with trio.CancelScope(shield=True):
            # It ends its child, and then itself.
            await process.stdin.aclose()
            with trio.move_on_after(_PATIENCE):
                await process.wait()
            process.kill()
            await process.wait()
            await process.stdout.aclose()


async def kill_again_and_again(
    directory: Path,
    kills: int,
    seed: int,
    *,
    clients: int = 20,
    accounts: int = 10,
    told: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Let clients add to ledgers while their server is killed, and compare everything at the end.

    Args:
        directory: for the store and the server's log; the store is new.
        kills: how often it is killed.
        seed: of the random numbers that say who does what and when; what the machine makes of it is
            another matter each time.
        clients: how many there are.
        accounts: how many ledgers they share.
        told: called with the number of each kill.

    Raises:
        Wrong: a promise was broken.
    """
    try:
        return await _kill(directory, kills, seed, clients, accounts, told)
    except BaseExceptionGroup as group:
        # Several clients may have noticed; one will do.
        wrong, rest = group.split(Wrong)
        if wrong is None or rest is not None:
            raise
        raise first_wrong(wrong) from None


def first_wrong(group: BaseExceptionGroup[Wrong]) -> Wrong:
    """One of those in a group, at whatever depth."""
    inner = group.exceptions[0]
    return first_wrong(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _kill(
    directory: Path, kills: int, seed: int, clients: int, accounts: int, told: Callable[[int], None]
) -> Tally:
    port = free_port()
    crowd = Crowd(
        [Account(str(number)) for number in range(accounts)],
        random.Random(seed),
        f"ws://127.0.0.1:{port}",
    )
    tally, store = crowd.tally, directory / "store"
    async with started(
        "benchmarks.servers.ledger", str(store), str(port), port=port, log=directory / "log"
    ) as server:
        await server.start()
        await server.wait_listening()
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                add = partial(crowd.add, stays=number < accounts)
                nursery.start_soon(add, crowd.accounts[number % accounts], f"client {number}")
            for number in range(kills):
                told(number)
                if crowd.random.random() < _AT_START and number:
                    tally.at_start += 1
                    await trio.sleep(crowd.random.uniform(*_STARTS))
                else:
                    if number:
                        await server.wait_listening()
                    await trio.sleep(crowd.random.uniform(*_LIVES))
                await server.kill()
                tally.kills += 1
                await server.start()
            await server.wait_listening()
            crowd.ending.set()
        # Whoever was there has heard everything; what is on the disk says the same.
        await server.kill()
        await server.start()
        await server.wait_listening()
        with trio.fail_after(_PATIENCE):
            for account in crowd.accounts:
                async with connect_room(f"ws://127.0.0.1:{server.port}/ledger/{account.id}") as room:
                    answer = await room.ask("get")
                account.check(answer["balance"], answer["count"])
        await server.stop()
    tally.asked = sum(len(account.asked) for account in crowd.accounts)
    check_fired(store / FIRED, crowd.later, tally)
    return tally


def check_fired(file: Path, later: Counter[tuple[str, int]], tally: Tally) -> None:
    """Compare what was due with what clients wanted to be added later.

    Raises:
        Wrong: something was never due, or nobody had asked for it.
    """
    tries = Counter[tuple[str, int]]()
    for line in file.read_text().splitlines():
        id_, amount = line.split()
        tries[id_, int(amount)] += 1
    if never := later.keys() - tries.keys():
        raise Wrong(f"{len(never)} of what was to be added later was never due")
    if unasked := tries.keys() - later.keys():
        raise Wrong(f"{len(unasked)} was due that nobody had asked for")
    tally.tries = tries.total()


@attrs.define(eq=False)
class Crowd:
    """The clients.

    Args:
        accounts: the ledgers that they share.
        random: says who does what and when.
        url: where the server is.
        open_stream: connects in the place of TCP, where there are several servers.
    """

    accounts: list[Account]
    random: random.Random
    url: str
    open_stream: Callable[[], Awaitable[trio.abc.Stream]] | None = None
    tally: Tally = attrs.field(factory=Tally)
    ending: trio.Event = attrs.field(factory=trio.Event)
    later: Counter[tuple[str, int]] = attrs.field(factory=Counter)

    def connect(
        self, path: str, protocol: Literal["json", "cbor"]
    ) -> AbstractAsyncContextManager[RemoteRoom]:
        """A client that soon notices when it has lost its server, and comes back at once."""
        return connect_room(
            self.url + path,
            protocol=protocol,
            open_stream=self.open_stream,
            open_within=_ENDING,
            attempt_timeout=3,
            first_delay=0.01,
            max_delay=0.1,
            ping_interval=2,
            ping_timeout=2,
        )

    async def add(self, account: Account, name: str, *, stays: bool = False) -> None:
        """One client after another, until the end; the last of them stays until it has heard everything.

        Args:
            account: the ledger that they use.
            name: what they are called.
            stays: whether the first is the last, so that each balance is heard by somebody.
        """
        if not stays:
            await account.attended.wait()  # Who leaves need not have heard all that was added until then.
        while not self.ending.is_set():
            member = Member(account, name)
            protocol: Literal["json", "cbor"] = self.random.choice(["json", "cbor"])
            self.tally.sessions += 1
            async with (
                self.connect(f"/ledger/{account.id}", protocol) as room,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._listen, room, member)
                member.came(await room.ask("get"))
                account.attended.set()
                turns = itertools.count() if stays else range(self.random.randint(1, 2 * _STAYS))
                for _ in turns:
                    if self.ending.is_set():
                        break
                    async with trio.open_nursery() as together:
                        for _ in range(self.random.randint(1, _AT_ONCE)):
                            together.start_soon(self._add, room, account)
                    if self.random.random() < 0.2:
                        await trio.sleep(self.random.uniform(*_PAUSES))
                if self.ending.is_set():
                    with trio.move_on_after(_ENDING) as scope:
                        await account.wait_complete()
                        await member.wait_for(len(account.asked))
                    if scope.cancelled_caught:
                        raise Wrong(
                            f"ledger {account.id}: {name} waits for balance {len(account.asked)}, knows "
                            f"{member.count}; {len(account.balances) - 1} are known to anybody"
                        )
                self.tally.interrupted += room.statistics().connects - 1
                nursery.cancel_scope.cancel()
            self.tally.heard += member.heard

    async def _add(self, room: RemoteRoom, account: Account) -> None:
        amount = account.next()
        if self.random.random() < 0.2:
            self.tally.scheduled += 1
            self.later[account.id, amount] += 1
            await room.ask("later", {"amount": amount, "after": self.random.uniform(*_DUE)})
        else:
            account.answer(amount, await room.ask("add", {"amount": amount}))

    async def _listen(self, room: RemoteRoom, member: Member) -> None:
        async for event in room:
            member.hear(event.name, event.data)
