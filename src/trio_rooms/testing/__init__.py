"""For tests: a client in a room, the suites of stores and engines, and a store that fails when told to.

Nothing here needs pytest to be imported; the suites are run by pytest with pytest-trio, which
``pip install trio-rooms[testing]`` brings.
"""

from __future__ import annotations

from .clients import Closed, MemoryClient, connect
from .conformance import StoreConformance
from .engines import EngineConformance
from .faulty import Call, FaultyStore, Gate

__all__ = [
    "Call",
    "Closed",
    "EngineConformance",
    "FaultyStore",
    "Gate",
    "MemoryClient",
    "StoreConformance",
    "connect",
]
