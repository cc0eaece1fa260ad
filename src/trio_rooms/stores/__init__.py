"""Where rooms are kept: what a store is, and the two that come with the library."""

from __future__ import annotations

from .base import Commit, Store, StoredRoom, StoredSnapshot, StoreStatistics
from .memory import MemoryStore
from .sqlite.store import DiskStore

__all__ = [
    "Commit",
    "DiskStore",
    "MemoryStore",
    "Store",
    "StoreStatistics",
    "StoredRoom",
    "StoredSnapshot",
]
