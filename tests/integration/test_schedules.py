"""What is scheduled, over the death of processes: at least once outside, and once in the room's state."""

from __future__ import annotations

import collections
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.integration.conftest import ROOT, TIMEOUT
from trio_rooms import DiskStore, Room, open_rooms

PROGRAM = """
import os, signal, sys
from pathlib import Path
import trio
from trio_rooms import Context, DiskStore, Fire, Room, open_rooms

folder, durability, dies = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
room = Room("bank", state=dict, durability=durability)

@room.on("pay")
async def pay(ctx: Context[dict], data: int) -> None:
    for number in range(data):
        ctx.room.schedule(f"pay:{number}", number, after=0)

@room.on_schedule("pay")
async def paid(ctx: Context[dict], fire: Fire[int]) -> None:
    global dies
    ctx.state[fire.name] = ctx.state.get(fire.name, 0) + 1
    with (folder / "paid").open("a") as book:
        book.write(f"{fire.name} {fire.id}\\n")
    dies -= 1
    if dies == 0:
        os.kill(os.getpid(), signal.SIGKILL)

async def main() -> None:
    async with open_rooms([room], store=DiskStore(folder / "data")) as rooms:
        bank = rooms.get("bank", "1")
        if not (folder / "begun").exists():
            await bank.ask("pay", 12)
            (folder / "begun").touch()
        while await bank.schedules():
            await trio.sleep(0.01)

trio.run(main)
"""


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
def test_a_process_that_is_killed_in_a_handler(tmp_path: Path, durability: str) -> None:
    """The handler that was killed is called again with the same id; nothing is forgotten or counted twice."""
    for dies in (1, 5, 0):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), durability, str(dies)]
        ended = subprocess.run(
            command, cwd=ROOT, timeout=TIMEOUT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == (-signal.SIGKILL if dies else 0), ended.stderr
    ids = collections.defaultdict[str, list[str]](list)
    for line in (tmp_path / "paid").read_text().splitlines():
        name, fire = line.split()
        ids[name].append(fire)
    assert set(ids) == {f"pay:{number}" for number in range(12)}
    assert all(len(set(fires)) == 1 for fires in ids.values())
    assert any(len(fires) > 1 for fires in ids.values())

    async def look() -> None:
        room: Room[dict[str, int]] = Room("bank", state=dict)
        async with open_rooms([room], store=DiskStore(tmp_path / "data")) as rooms:
            assert await rooms.get("bank", "1").peek() == dict.fromkeys(ids, 1)

    trio.run(look)
