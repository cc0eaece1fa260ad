from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.valkey import Valkey
from tests.valkeys.ends import served
from trio_rooms.stores import Commit, ValkeyStore

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="it takes the place of libc's write"
)

SHIM = Path(__file__).with_name("power.c")


@pytest.fixture
def unsafe(own_valkey: Valkey, tmp_path: Path, require: Callable[..., str]) -> Valkey:
    """A server that loses what it has written and not synced when it is killed."""
    shim = tmp_path / "power.so"
    compiler = require("cc", "gcc", "clang")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, SHIM, "-ldl", "-pthread"], check=True)
    own_valkey.kill()
    own_valkey.preloaded = str(shim)
    own_valkey.start()
    return own_valkey


async def test_a_power_failure_costs_nothing_that_was_acknowledged(unsafe: Valkey) -> None:
    """Whatever was under way: of each room there is the last commit that returned, or the one behind it."""
    acknowledged = dict.fromkeys((f"room/{n}" for n in range(20)), 0)
    store = ValkeyStore(unsafe.url)
    async with store, trio.open_nursery() as nursery:

        async def write(key: str) -> None:
            while True:
                number = acknowledged[key] + 1
                await store.commit(Commit(key, number, store.epoch, b"%d" % number))
                acknowledged[key] = number
                if sum(acknowledged.values()) == 500:
                    unsafe.kill()
                    nursery.cancel_scope.cancel()

        for key in acknowledged:
            nursery.start_soon(write, key)
        try:
            await trio.sleep_forever()
        finally:
            unsafe.preloaded = ""
            unsafe.start()
    async with ValkeyStore(unsafe.url) as store:
        for key, number in acknowledged.items():
            found = await store.load(key)
            assert number <= found.head.number <= number + 1
            assert found.snapshots[0].document == b"%d" % found.head.number
    assert sum(acknowledged.values()) >= 500


async def test_it_would_without_a_sync(unsafe: Valkey) -> None:
    """The last second that a server may lose is lost here: the failure is one."""
    unsafe.ask("CONFIG", "SET", "appendfsync", "everysec")
    acknowledged = 0
    async with served(unsafe) as server:
        while acknowledged < 500:
            acknowledged += 1
            await server.call("SET", "k", acknowledged)
        unsafe.kill()
    unsafe.preloaded = ""
    await trio.to_thread.run_sync(unsafe.start)
    assert int(unsafe.ask("GET", "k") or 0) < 500
