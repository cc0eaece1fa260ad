"""Demo: a café with five thousand guests, nearly all of them silent, and what that costs.

    examples/serve demo

serves it, lets the guests in, and opens the dashboard in a browser where there is a display; else it tells
where that is. Watch it for a minute. The guests come and say hello, and are active. Ten seconds later nearly
all of them are hibernated, and their tables sleep. Now and then somebody says something, which wakes the
table for some seconds; some order a coffee, which wakes it once more when that is ready. A few tables are
lively and never sleep, and the dashboard says why.

Ctrl-C ends the server and the guests. All options of ``trio-rooms serve`` are taken, such as
``--hibernation-ratio 0.95`` or ``--max-awake 20``, and ``--clients N`` for another number of guests.

The guests are a process of their own, so that the memory on the dashboard is that of the server alone. Each
takes a descriptor in both processes; where the limit does not allow so many, fewer come.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import runpy
import signal
import subprocess
import sys
import webbrowser
from contextlib import AsyncExitStack, suppress
from typing import TextIO

import attrs
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, open_websocket_url

from trio_rooms import Context, Room

SEATS = 10
LIVELY = 5
"""Tables at which everybody talks all the time."""
SPARE = 100
"""Descriptors that a process has for other things than guests."""
AT_ONCE = 50
"""Guests that come in at the same time."""
OFTEN = 600
"""Seconds between two things that a silent guest says, on average."""
LONG = 3600
"""Seconds for which one stays, on average, before going out for a moment."""
COFFEE = 15
"""Seconds until one is ready."""
GUESTS = "--guests"
"""What the process of the guests is started with."""


# The server: what a table does. It knows nothing of sleep.


@attrs.define
class Table:
    """What a table remembers."""

    said: int = 0
    coffees: int = 0


room = Room(
    "table",
    state=Table,
    idle_timeout=5,  # Short, so that there is something to be seen.
    connection_idle_timeout=10,
)


@room.on("say")
async def say(ctx: Context[Table], text: str) -> int:
    ctx.state.said += 1
    ctx.room.emit("said", text)
    return ctx.state.said


@room.on("order")
async def order(ctx: Context[Table]) -> None:
    ctx.room.schedule("ready", after=COFFEE)


@room.on_schedule("ready")
async def ready(ctx: Context[Table]) -> None:
    ctx.state.coffees += 1
    ctx.room.emit("coffee", ctx.state.coffees)


# The guests.


class Guests:
    """All who sit at the tables of a server.

    Args:
        url: where that is.
        count: how many they are.
    """

    def __init__(self, url: str, count: int) -> None:
        self.url = url
        self.count = count
        self.silent: list[WebSocketConnection] = []
        self.door = trio.CapacityLimiter(AT_ONCE)

    async def run(self) -> None:
        """Come, stay, and leave with the server, which has the other end of the standard input."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.talk)
            lively = min(2 * LIVELY, self.count)
            for number in range(self.count):
                chatty = number < lively
                table = number % LIVELY if chatty else LIVELY + number // SEATS
                nursery.start_soon(self.sit, table, chatty)
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()

    async def sit(self, table: int, chatty: bool) -> None:
        """Be one guest, who comes again after a while where the connection ends."""
        while True:
            with suppress(OSError, HandshakeError, ConnectionClosed):
                async with AsyncExitStack() as stack:
                    async with self.door:
                        opening = open_websocket_url(f"{self.url}/table/{table}")
                        connection = await stack.enter_async_context(opening)
                    await self.listen(connection, chatty)
            await trio.sleep(random.uniform(1, 5))

    async def listen(self, connection: WebSocketConnection, chatty: bool) -> None:
        """Hear what is said at the table for a while, or answer all of it."""
        if chatty:
            while True:
                await connection.send_message(event("say", "I have been thinking about that, too."))
                with trio.move_on_after(random.uniform(0.2, 2)):
                    while True:
                        await connection.get_message()
        await connection.send_message(event("say", "Hello!"))
        self.silent.append(connection)
        try:
            with trio.move_on_after(random.expovariate(1 / LONG)):
                while True:
                    await connection.get_message()
        finally:
            self.silent.remove(connection)

    async def talk(self) -> None:
        """Have one of the silent say something now and then, or order a coffee."""
        while True:
            await trio.sleep(random.expovariate(max(self.count / OFTEN, 1)))
            if not self.silent:
                continue
            connection = random.choice(self.silent)
            with suppress(ConnectionClosed):
                said = event("order", None) if random.random() < 0.2 else event("say", "Is this seat taken?")
                await connection.send_message(said)


def event(name: str, data: object) -> str:
    """A message of a client."""
    return json.dumps({"event": name, "data": data})


def visit(url: str, count: int) -> None:
    """Be the process of the guests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, and they leave with that.
    there = min(count, descriptors() - SPARE)
    if there < count:
        tell(f"{there} guests and not {count}: more descriptors are not allowed; `ulimit -Hn` says how many")
    # Where it listens on all addresses, one of them is this.
    page = url.replace("ws", "http", 1).replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    page += "/dashboard"
    shown = bool(sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if not (shown and webbrowser.open(page)):
        tell(f"the dashboard is at {page}")
    trio.run(Guests(url, there).run)


def descriptors() -> int:
    """Have as many descriptors as this process may; returns how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        most = 10_240  # What macOS allows, whatever it says.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return most


def tell(text: str) -> None:
    """Say something to who watches; the standard output is the server's."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


# Both.


class Output(io.TextIOBase):
    """The standard output of a server, which has the guests come as soon as it says where it listens.

    Args:
        own: where it goes.
        count: how many guests there are.
    """

    def __init__(self, own: TextIO, count: int) -> None:
        self.own = own
        self.count = count
        self.url = ""
        self.guests: subprocess.Popen[bytes] | None = None

    def write(self, text: str) -> int:
        """Pass it on."""
        if text.startswith("listening on "):
            self.url = text.removeprefix("listening on ")
        return self.own.write(text)

    def flush(self) -> None:
        """Pass it on; the guests come when it is out."""
        self.own.flush()
        if self.url and self.guests is None:
            command = [sys.executable, __file__, GUESTS, self.url, str(self.count)]
            # They leave when this process has ended, however that was: it is the end of their input.
            self.guests = subprocess.Popen(command, stdin=subprocess.PIPE)


def main() -> None:
    """Be the server, with options as `trio-rooms serve` has them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--clients", type=int, default=5000)
    options, others = parser.parse_known_args()
    descriptors()
    sys.stdout = Output(sys.stdout, options.clients)
    sys.argv = ["trio-rooms", "serve", f"{__file__}:room", *others]
    runpy.run_module("trio_rooms", run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1:2] == [GUESTS]:
        visit(sys.argv[2], int(sys.argv[3]))
    else:
        main()
