from __future__ import annotations

import contextlib
import logging
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.valkey import Valkey, ask, free_port
from tests.valkeys.ends import listening, served
from trio_rooms._valkey import Address, Library, Server, ServerError
from trio_rooms.errors import EngineError, EngineLost

PUT = Library("test", "register('put', function(k, a) return redis.call('SET', k[1], a[1]) end)")


async def test_a_server_that_comes_back_is_connected_to_again(own_valkey: Valkey) -> None:
    """What it had answered is there, and its functions are."""
    said: list[str] = []
    async with served(
        own_valkey,
        library=PUT,
        durability="always",
        patience=10,
        on_back=lambda: said.append("back"),
        on_lost=lambda why: said.append("lost"),
    ) as server:
        assert await server.fcall("put", ["k"], [1]) == b"OK"
        own_valkey.kill()
        await trio.to_thread.run_sync(own_valkey.start)
        assert await server.call("GET", "k") == b"1"
        own_valkey.ask("FUNCTION", "FLUSH")
        assert await server.fcall("put", ["k"], [2]) == b"OK"
    assert said == ["back", "lost", "back", "lost"]
    with pytest.raises(EngineLost, match="was closed"):
        await server.call("PING")


async def test_nobody_there_is_said_at_once(own_valkey: Valkey) -> None:
    """The first connection fails where there is none."""
    own_valkey.kill()
    with pytest.raises(EngineError, match="cannot be reached: connection refused"):
        await Server(Address.parse(own_valkey.url)).run()


async def test_a_call_waits_as_long_as_it_is_patient(own_valkey: Valkey) -> None:
    """For a connection, before it says anything: at once, or after a while, it says why there is none."""
    lost = trio.Event()
    async with served(own_valkey, on_lost=lambda why: lost.set()) as server:
        own_valkey.kill()
        await lost.wait()
        began, spent = trio.current_time(), time.process_time()
        for _ in range(2):
            with pytest.raises(EngineLost, match=r"is lost: it closed it|refused|reset"):
                await server.call("PING")
            server.patience = 0.2
        assert trio.current_time() - began >= 0.2
        assert time.process_time() - spent < 0.1
        with pytest.raises(EngineLost):
            server.post("PING")
        server.patience = 60
        with trio.move_on_after(0.01) as scope:
            await server.call("PING")
        assert scope.cancelled_caught


async def test_who_waits_is_told_when_nobody_will_connect_any_more(own_valkey: Valkey) -> None:
    """The end of `run` is the end of all."""
    server = Server(Address.parse(own_valkey.url), patience=60)
    told: list[EngineLost] = []

    async def call() -> None:
        try:
            await server.call("BLPOP", "nothing", 0)
        except EngineLost as error:
            told.append(error)
        try:
            await server.call("PING")
        except EngineLost as error:
            told.append(error)

    async with trio.open_nursery() as nursery, trio.open_nursery() as inner:
        await inner.start(server.run)
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        inner.cancel_scope.cancel()
    assert len(told) == 2


async def test_what_was_lost_is_not_done_after_what_is_said_next(valkey: Valkey) -> None:
    """Although the network brings it in the end: by then the server has ended that connection."""
    held: list[tuple[trio.SocketStream, bytes]] = []

    async def forward(source: trio.SocketStream, target: trio.SocketStream, *, hold: bool = False) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65536):
                if hold and b"late" in data:
                    held.append((target, data))
                    await trio.sleep_forever()
                await target.send_all(data)

    async def connect(client: trio.SocketStream) -> None:
        target = await trio.open_tcp_stream("127.0.0.1", valkey.port)
        async with target, trio.open_nursery() as nursery:
            nursery.start_soon(forward, target, client)
            await forward(client, target, hold=True)

    async with (
        listening(connect) as port,
        served(f"valkey://127.0.0.1:{port}", patience=10, silence=0.4) as server,
    ):
        with pytest.raises(EngineLost):
            await server.call("RPUSH", "list", "late")
        await server.call("RPUSH", "list", "next")
        ((target, data),) = held
        address = f"127.0.0.1:{target.socket.getsockname()[1]}"
        with contextlib.suppress(trio.BrokenResourceError):
            await target.send_all(data)
        while f" addr={address} ".encode() in valkey.ask("CLIENT", "LIST"):
            await trio.sleep(0.01)
        assert await server.call("LRANGE", "list", 0, -1) == [b"next"]


async def test_versions_of_functions_live_side_by_side(valkey: Valkey) -> None:
    """A node calls those that it came with, whoever has come before or after it."""
    other = Library("test", "register('put', function(k, a) return redis.call('SET', k[1], 'other') end)")
    async with served(valkey, library=PUT) as old, served(valkey, library=other) as new:
        for server, value in ((old, b"mine"), (new, b"other"), (old, b"mine")):
            await server.fcall("put", ["k"], ["mine"])
            assert await server.call("GET", "k") == value
        with pytest.raises(ServerError, match="unction not found"):
            await old.fcall("nothing", [], [])


@pytest.mark.parametrize(
    ("settings", "durability", "text"),
    [
        ({"appendonly": "no"}, "everysec", "appendonly no, and would forget rooms: set appendonly yes"),
        (
            {"appendfsync": "everysec"},
            "always",
            r"say that the last second may be \(--engine-durability everysec",
        ),
        ({"appendfsync": "no"}, "everysec", "set appendfsync everysec"),
        ({"maxmemory-policy": "allkeys-lru"}, "everysec", "set maxmemory-policy noeviction"),
    ],
)
async def test_a_server_that_forgets_is_refused(
    one_valkey: Valkey, settings: dict[str, str], durability: Any, text: str
) -> None:
    """The message says what to set. Where nothing is kept in it, it does not matter."""
    before = {name: one_valkey.ask("CONFIG", "GET", name)[1] for name in settings}
    try:
        for name, value in settings.items():
            one_valkey.ask("CONFIG", "SET", name, value)
        with pytest.raises(EngineError, match=text):
            await Server(Address.parse(one_valkey.url), durability=durability).run()
        async with served(one_valkey) as server:
            await server.call("PING")
    finally:
        for name, value in before.items():
            one_valkey.ask("CONFIG", "SET", name, value)
    async with served(one_valkey, durability=durability) as server:
        await server.call("PING")


async def test_a_server_that_does_not_say_what_it_keeps_is_refused(own_valkey: Valkey) -> None:
    """Nor is one whose functions may not be loaded; the message says what to allow."""
    url = f"valkey://ana:secret@127.0.0.1:{own_valkey.port}"
    own_valkey.ask("ACL", "SETUSER", "ana", "on", ">secret", "~*", "&*", "+@all", "-config", "-function")
    with pytest.raises(EngineError, match=r"NOPERM.*call CONFIG GET"):
        await Server(Address.parse(url), durability="always").run()
    own_valkey.ask("ACL", "SETUSER", "ana", "+config|get")
    with pytest.raises(EngineError, match=r"\+function\|load"):
        await Server(Address.parse(url), durability="always", library=PUT).run()
    own_valkey.ask("ACL", "SETUSER", "ana", "+function|load")
    async with served(url, durability="always", library=PUT) as server:
        await server.fcall("put", ["k"], [1])


async def test_functions_that_are_wrong_are_said(valkey: Valkey) -> None:
    """What Lua says of them is passed on."""
    with pytest.raises(EngineError, match="does not take our functions: ERR Error compiling"):
        await Server(Address.parse(valkey.url), library=Library("bad", "nonsense nonsense")).run()


async def test_a_server_that_becomes_a_replica_is_left(own_valkey: Valkey) -> None:
    """It cannot be written any more; nobody is told that it was, and when it can be again it is."""
    async with served(own_valkey) as server:
        await server.call("SET", "k", 1)
        own_valkey.ask("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(EngineLost, match="is not to be written now: READONLY"):
            await server.call("SET", "k", 2)
        own_valkey.ask("REPLICAOF", "NO", "ONE")
        server.patience = 10
        assert await server.call("GET", "k") == b"1"


def _following(primary: Valkey, folder: Path) -> Iterator[Valkey]:
    follower = Valkey(folder, ("--replicaof", "127.0.0.1", str(primary.port)))
    follower.start()
    while b"master_link_status:up" not in follower.ask("INFO", "replication"):
        time.sleep(0.02)
    yield follower
    follower.kill()


@pytest.fixture
def replica(own_valkey: Valkey, tmp_path: Path) -> Iterator[Valkey]:
    """A server that follows `own_valkey`."""
    yield from _following(own_valkey, tmp_path / "replica")


@pytest.fixture
def second_replica(own_valkey: Valkey, tmp_path: Path) -> Iterator[Valkey]:
    """Another one."""
    yield from _following(own_valkey, tmp_path / "second")


async def test_what_is_durable_is_in_the_replicas(own_valkey: Valkey, replica: Valkey) -> None:
    """Before it is answered. Many are waited for at once; and what was not in time is a loss."""
    async with served(own_valkey, replicas=1, silence=1) as server:
        for number in range(20):
            assert await server.call("SET", "k", number, durable=True) == b"OK"
            assert replica.ask("GET", "k") == str(number).encode()
        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(partial(server.call, "SET", f"k{number}", 1, durable=True))
        waits = _waits(own_valkey)
        assert 21 <= waits < 60
        replica.stop()
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(partial(server.call, "SET", f"k{number}", 2, durable=True))
                await trio.testing.wait_all_tasks_blocked()
            replica.go_on()
        assert _waits(own_valkey) == waits + 2
        assert server.connection is not None
        assert not server.connection._unsent
        with pytest.raises(ServerError):
            await server.call("LPUSH", "k", 1, durable=True)
        replica.stop()
        assert await server.call("SET", "k", "here") == b"OK"
        with pytest.raises(EngineLost, match="0 of 1 replicas had in time what was written"):
            await server.call("SET", "k", "there", durable=True)
        replica.go_on()
        server.patience = 5
        assert await server.call("SET", "k", "everywhere", durable=True) == b"OK"
        assert replica.ask("GET", "k") == b"everywhere"


def _waits(server: Valkey) -> int:
    found = server.ask("INFO", "commandstats").partition(b"cmdstat_wait:calls=")[2]
    return int(found.partition(b",")[0])


@asynccontextmanager
async def sentinel(primary: Valkey, folder: Path, options: str = "") -> AsyncIterator[Valkey]:
    """A Sentinel that is enough to decide, and quick to do it."""
    folder.mkdir()
    file = folder / "sentinel.conf"
    file.write_text(
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 300\n"
        f"sentinel failover-timeout main 2000\n{options}\n"
    )
    watcher = Valkey(folder, sentinel=file)
    await trio.to_thread.run_sync(watcher.start)
    try:
        yield watcher
    finally:
        watcher.kill()


async def test_sentinels_are_followed(own_valkey: Valkey, replica: Valkey, tmp_path: Path) -> None:
    """When the primary is gone they name another, which has what was durable."""
    async with sentinel(own_valkey, tmp_path / "sentinel") as watcher:
        url = f"valkey+sentinel://127.0.0.1:{free_port()},127.0.0.1:{watcher.port}/main"
        async with served(url, library=PUT, patience=20, silence=1) as server:
            assert await server.fcall("put", ["k"], [1]) == b"OK"
            while b"slaves=1" not in watcher.ask("INFO", "sentinel"):
                await trio.sleep(0.05)
            own_valkey.kill()
            while True:
                try:
                    assert await server.fcall("put", ["k"], [2]) == b"OK"
                    break
                except EngineLost:
                    await trio.sleep(0.05)
            assert replica.ask("GET", "k") == b"2"
            assert server.connection is not None
            assert server.connection.node == ("127.0.0.1", replica.port)


@pytest.mark.long
@pytest.mark.parametrize("fault", ["killed", "stopped"])
async def test_what_is_durable_outlives_a_primary(
    own_valkey: Valkey, replica: Valkey, second_replica: Valkey, tmp_path: Path, fault: str
) -> None:
    """Also one that was only stopped, and takes writes again before it knows that another has its place."""
    async with sentinel(own_valkey, tmp_path / "sentinel") as watcher:
        url = f"valkey+sentinel://127.0.0.1:{watcher.port}/main"
        # So patient that we are still connected when it goes on.
        async with served(url, replicas=1, patience=20, silence=10) as server, trio.open_nursery() as nursery:
            while b"slaves=2" not in watcher.ask("INFO", "sentinel"):
                await trio.sleep(0.05)

            async def write(task: int) -> None:
                number = 0
                while True:
                    try:
                        # Idempotent, so that it may be said again.
                        await server.call("SET", f"{task}-{number}", number, durable=True)
                    except EngineLost:
                        await trio.sleep(0.01)
                        continue
                    written.append(f"{task}-{number}")
                    number += 1

            written: list[str] = []
            for task in range(32):
                nursery.start_soon(write, task)
            await trio.sleep(1)
            if fault == "killed":
                own_valkey.kill()
            else:
                own_valkey.stop()
                while f"127.0.0.1:{own_valkey.port}".encode() in watcher.ask("INFO", "sentinel"):
                    await trio.sleep(0.05)
                own_valkey.go_on()
            before = len(written)
            while len(written) < before + 1000:
                await trio.sleep(0.05)
            await trio.sleep(3)
            nursery.cancel_scope.cancel()
        port = int(watcher.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1])
        (primary,) = [one for one in (replica, second_replica) if one.port == port]
        assert not [key for key in written if primary.ask("EXISTS", key) != 1]


async def test_sentinels_that_know_nothing_are_named(valkey: Valkey, tmp_path: Path) -> None:
    """Each of them, with what it said."""
    async with sentinel(valkey, tmp_path / "sentinel", "requirepass hush") as watcher:
        gone = free_port()
        hosts = f"127.0.0.1:{gone},127.0.0.1:{watcher.port},127.0.0.1:{valkey.port}"
        with pytest.raises(EngineLost) as caught:
            await Server(Address.parse(f"valkey+sentinel://{hosts}/main")).run()
        text = str(caught.value)
        assert f"127.0.0.1:{gone} cannot be reached" in text
        assert f"127.0.0.1:{watcher.port} wants a password" in text
        assert f"127.0.0.1:{valkey.port} is no Sentinel" in text
        url = f"valkey+sentinel://127.0.0.1:{watcher.port}/other?sentinel_password=hush"
        with pytest.raises(EngineLost, match="knows no service 'other'"):
            await Server(Address.parse(url)).run()
        async with served(url.replace("other", "main")) as server:
            assert await server.call("PING") == b"PONG"
        with pytest.raises(EngineError, match="is a Sentinel"):
            await Server(Address.parse(f"valkey://:hush@127.0.0.1:{watcher.port}")).run()


@pytest.fixture
def certificates(tmp_path: Path, require: Callable[..., str]) -> Path:
    """A folder with an authority, ``ca.pem``, and what it says of this machine, ``pem``."""
    openssl = require("openssl")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=tmp_path, check=True, capture_output=True)

    run("req", "-x509", *key, "-subj", "/CN=us", "-keyout", "ca.key", "-out", "ca.pem")
    run(
        *("req", "-x509", *key, "-subj", "/CN=here", "-CA", "ca.pem", "-CAkey", "ca.key"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:false"),
        *("-keyout", "key", "-out", "pem"),
    )
    return tmp_path


async def test_tls(certificates: Path, oldest: str, tmp_path: Path) -> None:
    """With certificates of both sides, and the oldest server that is spoken to."""
    port = free_port()
    own = Valkey(
        tmp_path / "redis",
        (
            *("--tls-port", str(port), "--tls-ca-cert-file", str(certificates / "ca.pem")),
            *("--tls-cert-file", str(certificates / "pem"), "--tls-key-file", str(certificates / "key")),
        ),
        program=oldest,
    )
    await trio.to_thread.run_sync(own.start)
    files = f"ca={certificates}/ca.pem"
    try:
        url = f"valkeys://127.0.0.1:{port}?{files}&cert={certificates}/pem&key={certificates}/key"
        async with served(url, library=PUT, durability="always", patience=10) as server:
            await server.fcall("put", ["k"], [bytes(2**20)])
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(server.call, "GET", "k")
            assert len(await server.call("GET", "k")) == 2**20
            own.kill()
            await trio.to_thread.run_sync(own.start)
            assert len(await server.call("GET", "k")) == 2**20
        with pytest.raises(EngineError, match=r"TLS to 127.0.0.1.* failed: .*self-signed certificate"):
            await Server(Address.parse(f"valkeys://127.0.0.1:{port}")).run()
        with pytest.raises(EngineError, match="certificate cannot be loaded"):
            await Server(Address.parse(f"valkeys://127.0.0.1:{port}?ca=/nowhere.pem")).run()
        with pytest.raises(EngineError, match=r"certificate required|cannot be reached"):
            await Server(Address.parse(f"valkeys://127.0.0.1:{port}?{files}")).run()
    finally:
        own.kill()


async def test_a_server_that_stays_away_is_not_spoken_of_all_the_time(
    own_valkey: Valkey, caplog: Any
) -> None:
    """The loss is told by whoever uses the connection; attempts are for those who look closely."""
    caplog.set_level(logging.INFO)
    async with served(own_valkey, patience=0.3) as server:
        own_valkey.kill()
        with pytest.raises(EngineLost):
            await server.call("PING")
        with pytest.raises(EngineLost):
            await server.call("PING")
    assert not caplog.records


def test_a_port_of_somebody_else_is_noticed(one_valkey: Valkey, tmp_path: Path) -> None:
    """A test does not speak to a server that it did not start."""
    other = Valkey(tmp_path, port=one_valkey.port)
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        other.start()
    other.kill()
    assert ask(one_valkey.port, "PING") == b"PONG"
