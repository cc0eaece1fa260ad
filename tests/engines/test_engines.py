"""The suite of every engine, run on the two that the library brings."""

from __future__ import annotations

import pytest

from tests.valkey import Valkey as Server
from trio_rooms.engines import Engine, MemoryEngine, Valkey
from trio_rooms.testing import EngineConformance


class TestMemoryEngine(EngineConformance):
    @pytest.fixture
    def engine(self) -> Engine:
        return MemoryEngine()

    async def later(self, engine: Engine, seconds: float) -> None:
        """All that it has noted is so much longer ago."""
        assert isinstance(engine, MemoryEngine)
        shared = engine._shared
        shared.beat -= seconds
        for times in (shared.until, shared.dead):
            for incarnation in times:
                times[incarnation] -= seconds


class TestValkey(EngineConformance):
    @pytest.fixture
    def engine(self, valkey: Server) -> Engine:
        return Valkey(valkey.url)

    async def later(self, engine: Engine, seconds: float) -> None:
        """All that it has noted is so much longer ago."""
        assert isinstance(engine, Valkey)
        call = engine._server.call
        for times in ("nodes", "dead"):
            for incarnation in await call("ZRANGE", f"{{rooms}}:{times}", 0, -1):
                await call("ZINCRBY", f"{{rooms}}:{times}", -seconds, incarnation)
        await call("INCRBYFLOAT", "{rooms}:beat", -seconds)
