"""Where rooms are kept: what a store is, and the three that come with the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import (
    Commit,
    Due,
    Entry,
    Fence,
    InboxSize,
    LinkHalf,
    Offer,
    Opening,
    Post,
    RoomHalf,
    RoomHead,
    Store,
    StoredRoom,
    StoredSession,
    StoredSnapshot,
    StoreStatistics,
    Timer,
    Verdict,
    Waiting,
)
from .memory import MemoryStore
from .sqlite.store import DiskStore

if TYPE_CHECKING:
    from .valkey.store import ValkeyStore

__all__ = [
    "Commit",
    "DiskStore",
    "Due",
    "Entry",
    "Fence",
    "InboxSize",
    "LinkHalf",
    "MemoryStore",
    "Offer",
    "Opening",
    "Post",
    "RoomHalf",
    "RoomHead",
    "Store",
    "StoreStatistics",
    "StoredRoom",
    "StoredSession",
    "StoredSnapshot",
    "Timer",
    "ValkeyStore",
    "Verdict",
    "Waiting",
]


def __getattr__(name: str) -> Any:
    """What is imported where it is used, since it needs what is not installed everywhere."""
    if name != "ValkeyStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .valkey.store import ValkeyStore  # noqa: PLC0415
    except ImportError as error:
        if error.name != "hiredis":
            raise
        raise ImportError("ValkeyStore needs hiredis: pip install 'trio-rooms[valkey]'") from error
    return ValkeyStore
