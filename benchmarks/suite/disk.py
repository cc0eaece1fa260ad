"""Where benchmarks of a store keep their files: on a disk, because a file system in memory syncs nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

__all__ = ["Disk", "disk_of", "folder", "forget_cached", "read_ahead"]

_VOLATILE: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
"""File systems that end with the machine's power."""


@attrs.frozen
class Disk:
    """What lies under a folder."""

    file_system: str
    """Its kind, such as ``ext4``."""
    source: str
    """What it is on, such as ``/dev/sda1``."""
    free: int
    """Bytes that may still be written to it."""

    @property
    def volatile(self) -> bool:
        """Whether a sync writes nothing that would outlive a power cut."""
        return self.file_system in _VOLATILE

    def __str__(self) -> str:
        """What stands beside a result."""
        told = f"Files were on {self.file_system} ({self.source})"
        return f"{told}, which is memory: nothing here is durable." if self.volatile else f"{told}."


def disk_of(path: Path) -> Disk:
    """What lies under a path, as the kernel's list of mounts has it (proc(5))."""
    path = path.resolve()
    found = ("", "", "")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        place, _, kind = line.partition(" - ")
        # A space in a name is written as \040.
        point = place.split(" ")[4].replace(r"\040", " ")
        # A later mount covers an earlier one at the same place.
        if path.is_relative_to(point) and len(point) >= len(found[0]):
            file_system, source = kind.split(" ")[:2]
            found = (point, file_system, source)
    return Disk(found[1], found[2], shutil.disk_usage(path).free)


@contextlib.contextmanager
def folder(results: Path) -> Iterator[Path]:
    """A folder that is gone after the block: in ``results`` if that is on a disk, else in ``/var/tmp``."""
    results.mkdir(parents=True, exist_ok=True)
    places = [place for place in (results, Path("/var/tmp")) if os.access(place, os.W_OK)]  # noqa: S108
    chosen = next((place for place in places if not disk_of(place).volatile), results)
    with tempfile.TemporaryDirectory(prefix=".data-", dir=chosen) as made:
        yield Path(made)


def forget_cached(place: Path) -> None:
    """Have what is in the files of a folder read from the disk the next time, as after a boot."""
    for path in place.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # What is not on the disk yet cannot be forgotten.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_ahead(place: Path) -> None:
    """Have what is in the files of a folder in the system's cache, as far as there is memory for it."""
    for path in place.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
