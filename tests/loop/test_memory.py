from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trio_rooms._loop import memory
from trio_rooms._loop.memory import SystemMemory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
NONE = str(9223372036854771712)
"""What version 1 says where there is no limit."""


def write(root: Path, files: dict[str, str]) -> SystemMemory:
    """A system with these files below its root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    system = SystemMemory(root)
    system.open()
    return system


def mount(kind: str, inside: str, point: str, options: str = "rw") -> str:
    """A line of mountinfo."""
    return f"36 35 0:30 {inside} {point} rw,nosuid shared:1 - {kind} {kind} {options}\n"


V2 = mount("cgroup2", "/", "/sys/fs/cgroup")
V1 = mount("tmpfs", "/", "/sys/fs/cgroup") + mount("cgroup", "/", "/sys/fs/cgroup/cpu", "rw,cpu")
V1 += mount("cgroup", "/", "/sys/fs/cgroup/memory", "rw,memory")


@pytest.mark.parametrize(
    ("files", "total"),
    [
        pytest.param({}, MACHINE, id="nothing is told"),
        pytest.param({"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/\n"}, MACHINE, id="no limit"),
        pytest.param(
            {
                "proc/self/mountinfo": V2,
                "proc/self/cgroup": "0::/system.slice/rooms.service\n",
                "sys/fs/cgroup/system.slice/rooms.service/memory.max": "300000\n",
            },
            300_000,
            id="version 2",
        ),
        pytest.param(
            {
                "proc/self/mountinfo": V2,
                "proc/self/cgroup": "0::/system.slice/rooms.service\n",
                "sys/fs/cgroup/system.slice/rooms.service/memory.max": "max\n",
                "sys/fs/cgroup/system.slice/memory.max": "500000\n",
                "sys/fs/cgroup/system.slice/memory.high": "max\n",
            },
            500_000,
            id="a group around it",
        ),
        pytest.param(
            {
                "proc/self/mountinfo": V2,
                "proc/self/cgroup": "0::/rooms\n",
                "sys/fs/cgroup/rooms/memory.max": "500000\n",
                "sys/fs/cgroup/rooms/memory.high": "400000\n",
            },
            400_000,
            id="where the kernel slows it down",
        ),
        pytest.param(
            {
                "proc/self/mountinfo": V2,
                "proc/self/cgroup": "0::/../../docker/1234\n",
                "sys/fs/cgroup/memory.max": "300000\n",
            },
            300_000,
            id="a container with a path outside of it",
        ),
        pytest.param(
            {
                "proc/self/mountinfo": V1,
                "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/1234\n0::/\n",
                "sys/fs/cgroup/memory/docker/1234/memory.limit_in_bytes": "300000\n",
                "sys/fs/cgroup/memory/docker/memory.limit_in_bytes": NONE,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": NONE,
                "sys/fs/cgroup/cpu/docker/1234/memory.limit_in_bytes": "7",
            },
            300_000,
            id="version 1",
        ),
        pytest.param(
            {
                "proc/self/mountinfo": mount("cgroup", "/docker/1234", "/sys/fs/cgroup/memory", "rw,memory"),
                "proc/self/cgroup": "4:memory:/docker/1234\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "300000\n",
            },
            300_000,
            id="version 1 in a container, with the host's path",
        ),
        pytest.param(
            {
                "proc/self/mountinfo": V1 + mount("cgroup2", "/", "/sys/fs/cgroup/unified"),
                "proc/self/cgroup": "4:memory:/rooms\n0::/rooms\n",
                "sys/fs/cgroup/memory/rooms/memory.limit_in_bytes": "300000\n",
                "sys/fs/cgroup/unified/rooms/cgroup.procs": "",
            },
            300_000,
            id="both versions",
        ),
        pytest.param(
            {"proc/self/mountinfo": "what is this\n", "proc/self/cgroup": ""}, MACHINE, id="something else"
        ),
    ],
)
def test_what_the_process_may_have(tmp_path: Path, files: dict[str, str], total: int) -> None:
    """The least of what its cgroup, those around it, and the machine have."""
    system = write(tmp_path, files)
    assert system.total() == total
    system.close()


def test_a_limit_that_is_changed(tmp_path: Path) -> None:
    """It is asked anew each time."""
    files = {
        "proc/self/mountinfo": V2,
        "proc/self/cgroup": "0::/rooms\n",
        "sys/fs/cgroup/rooms/memory.max": "500000\n",
    }
    system = write(tmp_path, files)
    assert system.total() == 500_000
    (tmp_path / "sys/fs/cgroup/rooms/memory.max").write_text("max")
    assert system.total() == MACHINE
    system.close()


def test_stalls_of_the_own_cgroup_or_of_the_machine(tmp_path: Path) -> None:
    """Nothing where the kernel does not tell."""
    text = "some avg10={} avg60=3.10 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    files = {
        "proc/self/mountinfo": V2,
        "proc/self/cgroup": "0::/rooms\n",
        "proc/pressure/memory": text.format("12.50", 2_500_000),
    }
    machine = write(tmp_path, files)
    assert machine.stall() == (0.125, 2.5)
    machine.close()
    own = write(tmp_path, {"sys/fs/cgroup/rooms/memory.pressure": text.format("0.00", 0)})
    assert own.stall() == (0.0, 0.0)
    (tmp_path / "sys/fs/cgroup/rooms/memory.pressure").write_text(text.format("100.00", 9_000_000))
    assert own.stall() == (1.0, 9.0)
    own.close()
    assert own.stall() is None
    silent = write(tmp_path / "empty", {})
    assert silent.stall() is None
    silent.close()


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells what a process has in memory")
def test_what_the_process_has() -> None:
    """It is what is in memory, not what was reserved; and asking needs no descriptor."""
    system = SystemMemory()
    assert system.resident() is None  # It has not begun.
    system.open()
    before = system.resident()
    assert before is not None
    block = bytearray(64 * 1024 * 1024)
    grown = system.resident()
    assert grown is not None
    assert grown - before > 60_000_000
    del block
    system.close()
    assert system.resident() is None


def test_nothing_is_told_elsewhere(tmp_path: Path) -> None:
    """On a system without these files."""
    system = write(tmp_path, {})
    assert system.resident() is None
    assert system.stall() is None
    system.close()


FREED = """
from trio_rooms._loop.memory import SystemMemory

system = SystemMemory()
system.open()
system.give_back()
before = system.resident()
states = [{"log": [f"{n} {m} " + "y" * (60 + m % 900) for m in range(1000)]} for n in range(60)]
pins = states[::20]
print(system.resident() - before)
del states
print(system.resident() - before)
system.give_back()
print(system.resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells what a process has in memory")
@pytest.mark.skipif(memory._trim is None, reason="another C library gives back what is free by itself")
def test_what_was_freed_goes_back() -> None:
    """What Python keeps for the next lists and dicts, and the C library for the next blocks."""
    # In a process of its own: in one that has run other tests there may be room for all of it.
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    made, kept, left = map(int, done.stdout.split())
    assert made > 25_000_000
    assert left < 12_000_000
    assert kept > left


def test_what_the_program_has_frozen_stays_so() -> None:
    """A program may have put its objects out of the collector's sight."""
    kept = [[number] for number in range(2000)]
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        assert frozen >= len(kept)
        memory.give_back()
        assert gc.get_freeze_count() == frozen
    finally:
        gc.unfreeze()
    memory.give_back()
    assert gc.get_freeze_count() <= 1000
    assert len(kept) == 2000
