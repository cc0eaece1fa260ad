"""Where rooms are kept: what a store is, and the two that come with the library."""

from __future__ import annotations

from .base import (
    Commit,
    Due,
    Entry,
    LinkHalf,
    Opening,
    RoomHalf,
    RoomHead,
    Store,
    StoredRoom,
    StoredSession,
    StoredSnapshot,
    StoreStatistics,
    Timer,
    Verdict,
)
from .memory import MemoryStore
from .sqlite.store import DiskStore

__all__ = [
    "Commit",
    "DiskStore",
    "Due",
    "Entry",
    "LinkHalf",
    "MemoryStore",
    "Opening",
    "RoomHalf",
    "RoomHead",
    "Store",
    "StoreStatistics",
    "StoredRoom",
    "StoredSession",
    "StoredSnapshot",
    "Timer",
    "Verdict",
]
