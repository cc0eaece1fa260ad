"""A thousand sockets in a hundred rooms that fall asleep between two messages: nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.integration.conftest import Served
from tests.integration.soak_client import IDLE_TIMEOUT, Crowd

Serve = Callable[..., Served]
ROOM = Path(__file__).with_name("soak_room.py")
PATIENCE = 60.0


def statistics(served: Served) -> Any:
    """What the server counts."""
    return json.loads(served.get("/stats"))


async def all_asleep(served: Served) -> Any:
    """The statistics once every room sleeps."""
    with trio.fail_after(PATIENCE):
        while (told := statistics(served))["supervisor"]["awake"]:
            await trio.sleep(0.05)
    return told


@pytest.mark.parametrize(
    ("rooms", "members", "rounds"),
    [
        pytest.param(100, 10, 3, id="short", marks=pytest.mark.timeout(120)),
        pytest.param(100, 10, 80, id="minute", marks=(pytest.mark.long, pytest.mark.timeout(300))),
    ],
)
async def test_soak(serve: Serve, tmp_path: Path, rooms: int, members: int, rounds: int) -> None:
    """Every message is handled once, heard once by all in order, and survives thousands of sleeps."""
    seed = int(os.environ.get("SOAK_SEED", "0")) or random.randrange(1, 1 << 32)
    print(f"SOAK_SEED={seed} draws the same once more")
    served = serve(ROOM, "--data", tmp_path / "data", "--idle-timeout", str(IDLE_TIMEOUT))
    began = time.monotonic()
    with trio.fail_after(PATIENCE + 2 * rounds):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(served.port, nursery, seed)
            await crowd.gather(rooms, members)
            await crowd.talk(rounds)
            await crowd.hear_all()

            told = await all_asleep(served)
            assert told["hub"]["sockets"] == rooms * members
            naps = sum(room.naps for room in crowd.rooms)
            # What is sent in pieces, and who comes back, makes for more of them than the long gaps alone.
            assert told["supervisor"]["wakes"] > naps
            assert told["supervisor"]["hibernations"] == told["supervisor"]["wakes"]
            assert told["supervisor"]["crashes"] == 0
            await crowd.ping_all()
            assert statistics(served)["supervisor"] == told["supervisor"]

            assert await crowd.check() == told["supervisor"]["wakes"] + rooms
            told = await all_asleep(served)
            assert told["hub"]["sockets"] == rooms * members
            assert told["store"]["failures"] == 0
            await crowd.leave()
    said = sum(len(room.said) for room in crowd.rooms)
    gone = sum(len(room.gone) for room in crowd.rooms)
    print(
        f"{said} messages, {told['hub']['sent']} sent, {told['supervisor']['wakes']} wakes, {naps} naps, "
        f"{gone} reconnects, {time.monotonic() - began:.1f} s"
    )
    assert served.stop() == 0
    assert "ERROR" not in served.log.read_text()
