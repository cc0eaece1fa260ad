"""Processes under measurement: start one, speak with it in lines, see what it takes of the machine.

Linux alone: what a process and the kernel hold is read from ``/proc``.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

from benchmarks.suite.failures import Failed

__all__ = [
    "ROOT",
    "Memory",
    "Process",
    "ProcessFailed",
    "cpu_seconds",
    "file_limit",
    "kernel_memory",
    "memory",
    "start",
]

ROOT: Final = Path(__file__).resolve().parents[2]
"""The project's folder, in which every process is started."""
_TAIL: Final = 2_000
"""Characters of a process's last words that an error repeats."""
_PATIENCE: Final = 5.0
"""Seconds that a process has to end after SIGTERM."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class ProcessFailed(Failed):
    """A process ended, or said nothing for too long; the text has the end of its standard error."""


@attrs.frozen
class Memory:
    """What a process and its children hold, in bytes."""

    anonymous: int
    """Memory that the program made itself: no files and no libraries."""
    pss: int
    """All of it, each shared page divided by those who share it."""
    rss: int
    """All of it, shared pages whole."""


class Process:
    """A process that is gone when the block ends: `start` makes one."""

    def __init__(self, command: tuple[str, ...], env: Mapping[str, str] | None, cwd: Path) -> None:
        self.command = command
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._unread = b""
        try:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                # Ctrl-C is for the suite alone, which ends what it started.
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise ProcessFailed(f"{command[0]} cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Ask the process to end, and make it."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # What was still to be written to it.
                stream.close()
        self._errors.close()

    def kill(self) -> None:
        """End the process as a crash would, and wait until it is gone."""
        self._popen.kill()
        self._popen.wait()

    def ended(self, timeout: float = 0) -> int | None:
        """Its exit status if it ends within so many seconds, else None."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def line(self, timeout: float = 60) -> str:
        """The next line that the process prints, without its end.

        Raises:
            ProcessFailed: it ended, or printed no whole line for ``timeout`` seconds.
        """
        assert self._popen.stdout is not None
        descriptor = self._popen.stdout.fileno()
        deadline = time.monotonic() + timeout
        parts = []
        while True:
            head, newline, tail = self._unread.partition(b"\n")
            parts.append(head)
            self._unread = tail
            if newline:
                return b"".join(parts).decode()
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self._unread = b"".join(parts)
                raise self.failure(f"said nothing for {timeout:g} s")
            self._unread = os.read(descriptor, 1 << 16)
            if not self._unread:
                raise self.failure(f"ended with {self._popen.wait()}")

    def write(self, line: str) -> None:
        """Give the process a line on its standard input."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(line.encode() + b"\n")
            self._popen.stdin.flush()
        except OSError as error:
            # What reads no more has nearly always ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(1)
            raise self.failure(f"takes no more input ({error})") from error

    def failure(self, what: str) -> ProcessFailed:
        """An error that says what happened to the process, with its last words."""
        # Read beside its place, where the process goes on writing.
        end = os.fstat(self._errors.fileno()).st_size
        words = os.pread(self._errors.fileno(), _TAIL, max(0, end - _TAIL)).decode(errors="replace").strip()
        text = f"{' '.join(self.command)} {what}"
        return ProcessFailed(f"{text}:\n{words}" if words else text)


def start(*command: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Process:
    """Start a process; ``env`` comes on top of the environment here.

    It may open as many files as this system lets it.
    """
    file_limit()
    return Process(command, env, cwd)


def file_limit() -> int:
    """How many files a process may have open: raised to what is allowed, here and for what is started."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def memory(pid: int) -> Memory:
    """What a process and its children hold now."""
    totals = {"Anonymous": 0, "Pss": 0, "Rss": 0}
    for one in _family(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
            name, _, value = line.partition(":")
            if name in totals:
                totals[name] += int(value.split()[0]) * 1024
    return Memory(totals["Anonymous"], totals["Pss"], totals["Rss"])


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time that a process and its children have taken."""
    ticks = 0
    for one in _family(pid):
        # After the name, which may have anything in it; fields 14 and 15 of proc(5).
        fields = Path(f"/proc/{one}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            yield from _family(int(child))


def kernel_memory() -> int:
    """Bytes that the kernel of this machine holds for its objects (slab) and for what TCP has buffered.

    Of the whole machine: sockets are in no process's memory. Both ends of a connection are in it where both
    are here.
    """
    slab = re.search(r"^Slab:\s+(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    sockets = re.search(r"^TCP:.* mem (\d+)$", Path("/proc/net/sockstat").read_text("ascii"), re.MULTILINE)
    assert slab is not None
    assert sockets is not None
    return int(slab[1]) * 1024 + int(sockets[1]) * _PAGE
