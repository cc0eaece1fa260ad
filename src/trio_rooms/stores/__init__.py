"""Where rooms are kept: what a store is, and the two that come with the library."""

from __future__ import annotations

from .base import (
    Commit,
    Due,
    Entry,
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

__all__ = [
    "Commit",
    "DiskStore",
    "Due",
    "Entry",
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
    "Verdict",
    "Waiting",
]
