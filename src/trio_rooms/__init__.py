"""Rooms: actors that many WebSockets share, which sleep when nothing happens and wake when something does."""

from __future__ import annotations

from ._definition.fire import Fire, Retry
from ._definition.room import Room
from ._insight.advice import Recommendation
from ._insight.metrics import (
    ConnectionCounts,
    DeliveryMetrics,
    DropMetrics,
    QueueMetrics,
    RoomCounts,
    RoomsMetrics,
    SnapshotMetrics,
)
from ._metrics.histogram import Summary
from ._policy.policy import Policy
from ._room.connection import Connection, Connections
from ._room.context import Context
from ._room.handles import RoomHandle
from ._room.lifecycle import Stage
from ._room.live import LiveRoom
from ._room.placement import RoomInfo
from ._room.reasons import Reason, WhyAwake
from ._room.reports import Disconnect, WakeReport
from ._room.schedules import Schedule
from ._room.storage import Storage
from ._room.users import User
from ._rooms import Rooms, RoomsStatistics, open_rooms
from ._run import run
from ._server.admission import Admitted, ConnectRequest
from ._server.server import Address
from ._sockets.sent import Sent
from ._users.whereabouts import Whereabouts
from ._wire.close_codes import CloseCode
from .errors import (
    AskCircle,
    AskRefused,
    AskTimeout,
    AttachmentError,
    CannotListen,
    ConnectionGone,
    DefinitionError,
    EngineError,
    EngineLost,
    EventError,
    HandlerFailed,
    HandlerTimeout,
    MigrationError,
    NoConnection,
    NotSaved,
    Refused,
    RoomFailed,
    RoomsClosed,
    RoomsError,
    ScheduleError,
    ScheduleGivenUp,
    SnapshotCorrupt,
    SnapshotError,
    SnapshotTooNew,
    StaleContext,
    StaleWrite,
    StateError,
    StoreClosed,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreReadOnly,
    Unavailable,
    UnknownRoom,
)
from .stores.base import Store
from .stores.memory import MemoryStore
from .stores.sqlite.store import DiskStore

__version__ = "0.1.0"

__all__ = [
    "Address",
    "Admitted",
    "AskCircle",
    "AskRefused",
    "AskTimeout",
    "AttachmentError",
    "CannotListen",
    "CloseCode",
    "ConnectRequest",
    "Connection",
    "ConnectionCounts",
    "ConnectionGone",
    "Connections",
    "Context",
    "DefinitionError",
    "DeliveryMetrics",
    "Disconnect",
    "DiskStore",
    "DropMetrics",
    "EngineError",
    "EngineLost",
    "EventError",
    "Fire",
    "HandlerFailed",
    "HandlerTimeout",
    "LiveRoom",
    "MemoryStore",
    "MigrationError",
    "NoConnection",
    "NotSaved",
    "Policy",
    "QueueMetrics",
    "Reason",
    "Recommendation",
    "Refused",
    "Retry",
    "Room",
    "RoomCounts",
    "RoomFailed",
    "RoomHandle",
    "RoomInfo",
    "Rooms",
    "RoomsClosed",
    "RoomsError",
    "RoomsMetrics",
    "RoomsStatistics",
    "Schedule",
    "ScheduleError",
    "ScheduleGivenUp",
    "Sent",
    "SnapshotCorrupt",
    "SnapshotError",
    "SnapshotMetrics",
    "SnapshotTooNew",
    "Stage",
    "StaleContext",
    "StaleWrite",
    "StateError",
    "Storage",
    "Store",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreReadOnly",
    "Summary",
    "Unavailable",
    "UnknownRoom",
    "User",
    "WakeReport",
    "Whereabouts",
    "WhyAwake",
    "open_rooms",
    "run",
]
