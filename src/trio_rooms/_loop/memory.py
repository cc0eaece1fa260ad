"""The memory of this process: how much it has and may have, and giving back what it does not need."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, Protocol

__all__ = ["Memory", "Stall", "SystemMemory", "give_back", "keep_one_heap"]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_FROZEN: Final = 1000
"""Objects that Python itself keeps out of the collector's sight, at most; more have been put there by the
program, and stay there."""


_ARENA_MAX: Final = -8
"""M_ARENA_MAX, see mallopt(3)."""


class Stall(NamedTuple):
    """How long something has waited for memory, as Linux tells it (PSI, "some")."""

    share: float
    """Of the last ten seconds."""
    total: float
    """Seconds since the system was started, or the cgroup made."""


class Memory(Protocol):
    """What is asked about the memory of this process; each call takes microseconds, but for `give_back`."""

    def open(self) -> None:
        """Something is going to be asked."""

    def resident(self) -> int | None:
        """Bytes of it that are in memory; None where that is not told."""

    def total(self) -> int | None:
        """Bytes that it may have; None where that is not told."""

    def stall(self) -> Stall | None:
        """How long something has waited for memory; None where that is not told."""

    def give_back(self) -> None:
        """Give what was freed back to the system."""

    def close(self) -> None:
        """Ask nothing any more."""


class SystemMemory:
    """The memory as the system tells it: on Linux all of it, elsewhere only how much the machine has.

    Args:
        root: where the file systems ``/proc`` and ``/sys`` are found; tests have their own.
    """

    __slots__ = ("_cgroups", "_pressure", "_root", "_statm")

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cgroups: tuple[_Cgroup, ...] = ()
        self._statm: int | None = None
        self._pressure: int | None = None

    def open(self) -> None:
        """See `Memory`."""
        root = self._root
        try:
            self._cgroups = tuple(_cgroups(root))
        except (OSError, ValueError):
            self._cgroups = ()  # Whatever is there, it is none of Linux's.
        # Kept open: one has to look also where no descriptors are left.
        self._statm = _opened(root / "proc/self/statm")
        own = [group.folder / "memory.pressure" for group in self._cgroups if group.unified]
        files = (_opened(path) for path in (*own[:1], root / "proc/pressure/memory"))
        self._pressure = next((one for one in files if one is not None), None)

    def resident(self) -> int | None:
        """See `Memory`."""
        told = re.match(rb"[0-9]+ ([0-9]+) ", _read(self._statm) or b"")
        return None if told is None else int(told[1]) * _PAGE

    def total(self) -> int | None:
        """See `Memory`: what the machine has, or less where its cgroup or one around it says so."""
        found = [group.limit() for group in self._cgroups]
        with contextlib.suppress(ValueError, OSError):
            found.append(os.sysconf("SC_PHYS_PAGES") * _PAGE)
        return min((one for one in found if one is not None and one > 0), default=None)

    def stall(self) -> Stall | None:
        """See `Memory`: of the own cgroup, or of the machine."""
        told = re.match(rb"some avg10=([0-9.]+) .*total=([0-9]+)", _read(self._pressure) or b"")
        return None if told is None else Stall(float(told[1]) / 100, int(told[2]) / 1_000_000)

    def give_back(self) -> None:
        """See `Memory`."""
        give_back()

    def close(self) -> None:
        """See `Memory`."""
        for one in (self._statm, self._pressure):
            if one is not None:
                os.close(one)
        self._statm = self._pressure = None


def give_back() -> None:
    """Give what was freed back to the system: some milliseconds, and more where it is hundreds of megabytes.

    Python gives back an arena when nothing is left in it. For the next objects of some kinds it keeps a few
    of those that were freed, and a single one of these holds a whole arena. It lets go of them in a full
    collection; which takes no time when there is nothing to look at.

    The C library keeps what lies below something that is still in use, until it is asked; others than
    GNU's give it back by themselves.
    """
    if gc.get_freeze_count() <= _FROZEN:
        gc.collect(1)  # Young garbage would be old garbage after what follows.
        gc.freeze()
        try:
            gc.collect()
        finally:
            gc.unfreeze()
    if _trim is not None:
        _trim(0)


def keep_one_heap() -> bool:
    """Have all threads of this process allocate from one heap; whether the C library can do so.

    GNU's has one for each of the first threads, and the end of each but the first is never given back:
    some megabytes for each thread that has read or written large rooms. Call it before there are
    threads. Python lets them run one at a time, so that they hardly ever wait for each other here.
    """
    return _mallopt is not None and _mallopt(_ARENA_MAX, 1) == 1


def _found(name: str, *arguments: type) -> Callable[..., int] | None:
    """A function of the C library, if that has it."""
    try:
        function: Any = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


_trim: Final = _found("malloc_trim", ctypes.c_size_t)
_mallopt: Final = None if _trim is None else _found("mallopt", ctypes.c_int, ctypes.c_int)


# Where Linux says it.


class _Cgroup(NamedTuple):
    """A cgroup of this process, or one around it."""

    folder: Path
    unified: bool
    """Whether it is of version 2."""

    def limit(self) -> int | None:
        """Bytes that those in it may have together; None for any."""
        names = ("memory.max", "memory.high") if self.unified else ("memory.limit_in_bytes",)
        return min(filter(None, (_number(self.folder / name) for name in names)), default=None)


def _cgroups(root: Path) -> Iterator[_Cgroup]:
    """The cgroups that limit the memory of this process, from its own outwards."""
    for line in _lines(root / "proc/self/mountinfo"):
        # proc_pid_mountinfo(5): 36 35 98:0 /root /mount/point options - type source more,options
        before, _, after = line.partition(" - ")
        kind, _, more = after.partition(" ")
        unified = kind == "cgroup2"
        if not (unified or (kind == "cgroup" and "memory" in more.rpartition(" ")[2].split(","))):
            continue
        inside, mounted = before.split()[3:5]
        point = root / mounted.lstrip("/")
        # In a container the path may be that of the host, of which only the end is mounted, or nothing.
        folder = point.joinpath(_path_below(_own_path(root, unified=unified), inside))
        if not folder.is_dir():
            folder = point
        yield _Cgroup(folder, unified)
        while folder != point:
            folder = folder.parent
            yield _Cgroup(folder, unified)


def _own_path(root: Path, *, unified: bool) -> str:
    """Where this process is in the tree of cgroups."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if (number == "0" and not controllers) if unified else "memory" in controllers.split(","):
            return path
    return "/"


def _path_below(path: str, inside: str) -> str:
    """What of a path is below the part of the tree that is mounted."""
    own = PurePosixPath(path)
    own = own.relative_to(inside) if own.is_relative_to(inside) else own.relative_to("/")
    return "" if ".." in own.parts else str(own)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """A limit in a file; None where there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # "max", for one.


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _read(file: int | None) -> bytes | None:
    """What is in a file now; None where it is not told."""
    if file is None:
        return None
    try:
        return os.pread(file, 4096, 0)
    except OSError:
        return None  # Of a kernel that was started without it, for one.
