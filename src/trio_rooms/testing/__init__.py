"""For tests: a client in a room, the suite that every store passes, and a store that fails when told to.

Nothing here needs pytest to be imported; the suite is run by pytest with pytest-trio, which
``pip install trio-rooms[testing]`` brings.
"""

from __future__ import annotations

from .clients import Closed, MemoryClient, connect
from .conformance import StoreConformance
from .faulty import Call, FaultyStore, Gate

__all__ = ["Call", "Closed", "FaultyStore", "Gate", "MemoryClient", "StoreConformance", "connect"]
