"""The game example over real sockets: turns that end while the room sleeps, and while no server runs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.integration.conftest import TIMEOUT, Served
from trio_rooms.client import AskFailed, RemoteRoom, connect_room

GAME = "examples/game.py"


async def game_where(room: RemoteRoom, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The next state of the game that is as it should be."""
    async for event in room:
        if event.name == "game" and found(event.data):
            data: dict[str, Any] = event.data
            return data
    pytest.fail("the connection has ended")


async def test_a_turn_ends_while_everybody_sleeps(serve: Callable[..., Served], tmp_path: Path) -> None:
    """Whoever takes too long has one match taken, though the room is asleep."""
    served = serve(GAME, "--data", tmp_path / "data", "--idle-timeout", "0.1")
    table = f"{served.url}/game/table?player="
    with trio.fail_after(TIMEOUT):
        async with connect_room(f"{table}Ada") as ada, connect_room(f"{table}Bob") as bob:
            await game_where(bob, lambda game: game["players"] == ["Ada", "Bob"])
            with pytest.raises(AskFailed, match="not your turn"):
                await bob.ask("take", {"count": 1})
            await ada.ask("start", {"seconds": 1})
            assert await ada.ask("take", {"count": 3}) == 18
            game = await game_where(ada, lambda game: game["matches"] == 18)
            assert (game["turn"], game["loser"]) == ("Bob", None)
            await trio.to_thread.run_sync(served.wait_until, "game/table", "asleep")
            game = await game_where(bob, lambda game: game["matches"] == 17)
            assert game["turn"] == "Ada"
            assert game["said"] == "Bob took too long, and so one match is taken"
    assert served.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_turn_ends_while_no_server_runs(
    serve: Callable[..., Served], tmp_path: Path, number: signal.Signals
) -> None:
    """The next server goes on with the game, once for each turn, also where the first was killed."""
    options = (GAME, "--data", tmp_path / "data", "--idle-timeout", "0.1")
    served = serve(*options)
    table = f"{served.url}/game/table?player="
    with trio.fail_after(TIMEOUT):
        async with connect_room(f"{table}Ada", first_delay=0.05, max_delay=0.2) as ada:
            async with connect_room(f"{table}Bob") as bob:
                await game_where(bob, lambda game: game["players"] == ["Ada", "Bob"])
            await ada.ask("start", {"seconds": 1})
            begun = await game_where(ada, lambda game: game["turn"] == "Ada")
            await trio.to_thread.run_sync(served.stop, number)  # Else the client could not say goodbye.
            served = serve(*options, "--port", str(served.port))
            game = await game_where(ada, lambda game: game["matches"] < 21)
            assert (game["matches"], game["turn"]) == (20, "Bob")
            assert game["ends"] > begun["ends"]
            game = await game_where(ada, lambda game: game["matches"] < 20)
            assert (game["matches"], game["turn"]) == (19, "Ada")
