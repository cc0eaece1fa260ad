"""The presence example over real sockets: who is here, and what reaches whom."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.integration.conftest import TIMEOUT, Served
from trio_rooms import DiskStore
from trio_rooms.client import AskFailed, ConnectionEnded, RemoteRoom, connect_room

PRESENCE = "examples/presence.py"
NOBODY = {"active": 0, "parked": 0, "queued": 0, "stored": 0, "dropped": 0}
Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def presence(serve_all: Serve, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A server of rooms with presence."""
    return serve_all(PRESENCE, "--data", tmp_path_factory.mktemp("data"))


def entry(device: str | None, status: str = "online") -> dict[str, Any]:
    """What is told of a connection."""
    return {"device": device, "status": status}


async def heard(room: RemoteRoom, name: str) -> Any:
    """The data of the next event of a name."""
    async for event in room:
        if event.name == name:
            return event.data
    pytest.fail("the connection has ended")


async def users_are(room: RemoteRoom, **users: Any) -> None:
    """Wait until these are here."""
    while room.users != users:
        await heard(room, "rooms.presence")


async def heard_all(room: RemoteRoom, count: int) -> list[str]:
    """What was whispered next."""
    return [(await heard(room, "whispered"))["text"] for _ in range(count)]


@pytest.mark.parametrize("user", ["", "a b", "a/b", "ana\n", "é", "x" * 65])
async def test_who_has_no_name_is_refused(presence: Served, user: str) -> None:
    """With 401, before there is a WebSocket."""
    with trio.fail_after(TIMEOUT), pytest.raises(ConnectionEnded) as refused:
        async with connect_room(f"{presence.url}/presence/x?user={quote(user)}"):
            pytest.fail("it was let in")
    assert refused.value.status == 401


async def test_who_is_here(presence: Served) -> None:
    """Each device of each user, from the first event on; with what it says of itself."""
    url = f"{presence.url}/presence/here"
    with trio.fail_after(TIMEOUT):
        async with connect_room(f"{url}?user=ana&device=laptop") as ana:
            await users_are(ana, ana=[entry("laptop")])
            async with connect_room(f"{url}?user=bob", protocol="cbor") as bob:
                await users_are(bob, ana=[entry("laptop")], bob=[entry(None)])
                await ana.ask("status", {"status": "busy"})
                async with connect_room(f"{url}?user={'x' * 64}&device=d") as other:
                    await users_are(
                        other, ana=[entry("laptop", "busy")], bob=[entry(None)], **{"x" * 64: [entry("d")]}
                    )
                async with connect_room(f"{url}?user=ana&device=phone"):
                    both = [entry("laptop", "busy"), entry("phone")]
                    await users_are(bob, ana=both, bob=[entry(None)])
                await users_are(bob, ana=[entry("laptop", "busy")], bob=[entry(None)])
                with pytest.raises(AskFailed, match="1 to 64"):
                    await bob.ask("status", {"status": ""})
            await users_are(ana, ana=[entry("laptop", "busy")])


async def test_what_reaches_whom(presence: Served) -> None:
    """All others, or one person; and the sender is told."""
    url = f"{presence.url}/presence/reach"
    with trio.fail_after(TIMEOUT):
        async with (
            connect_room(f"{url}?user=ana") as ana,
            connect_room(f"{url}?user=bob") as bob,
        ):
            await users_are(ana, ana=[entry(None)], bob=[entry(None)])
            await ana.ask("say", {"text": "Hello."})
            assert await heard(bob, "said") == {"user": "ana", "text": "Hello."}
            await bob.ask("cursor", {"x": 0.25, "y": 1})
            assert await heard(ana, "cursor") == {"user": "bob", "x": 0.25, "y": 1}
            await bob.ask("typing", {})
            assert await heard(ana, "typing") == {"user": "bob"}
            await ana.ask("typing", {"to": "bob"})
            assert await heard(bob, "typing") == {"user": "ana"}
            for priority in ("low", "normal", "high"):
                whisper = {"to": "bob", "text": priority, "priority": priority}
                assert await ana.ask("whisper", whisper) == {**NOBODY, "active": 1}
                assert await heard(bob, "whispered") == {"from": "ana", "text": priority}
            for data, message in (
                ({"to": "a b", "text": "x"}, "a name has"),
                ({"to": "bob", "text": ""}, "1 to 1000"),
                ({"to": "bob", "text": "x", "priority": "urgent"}, "priority"),
            ):
                with pytest.raises(AskFailed, match=message):
                    await ana.ask("whisper", data)


async def test_what_is_whispered_to_who_is_away(presence: Served) -> None:
    """It waits, and comes once, in order, in whichever room she is next."""
    with trio.fail_after(TIMEOUT):
        async with connect_room(f"{presence.url}/presence/here?user=ana") as ana:
            texts = ["low", "normal", "high", "low"]
            for text in texts:
                whisper = {"to": "cat", "text": text, "priority": text}
                assert await ana.ask("whisper", whisper) == {**NOBODY, "stored": 1}
            async with connect_room(f"{presence.url}/presence/elsewhere?user=cat") as cat:
                assert await heard_all(cat, 4) == texts
            async with connect_room(f"{presence.url}/presence/here?user=cat") as cat:
                await ana.ask("say", {"text": "Is that all?"})
                assert {(await anext(cat)).name for _ in range(2)} == {"rooms.presence", "said"}


async def test_what_waits_at_who_does_nothing(serve: Serve) -> None:
    """By the options: when a connection is hibernated, and for how long low priority waits there."""
    served = serve(PRESENCE, "--connection-idle-timeout", "0.1", "--flush-after", "0.2")
    url = f"{served.url}/presence/rest"
    with trio.fail_after(TIMEOUT):
        async with (
            connect_room(f"{url}?user=ana") as ana,
            connect_room(f"{url}?user=bob") as bob,
        ):
            texts: list[str] = []

            async def whisper(priority: str) -> Any:
                texts.append(f"{priority} {len(texts)}")
                return await ana.ask("whisper", {"to": "bob", "text": texts[-1], "priority": priority})

            await users_are(ana, ana=[entry(None)], bob=[entry(None)])
            while await whisper("low") == {**NOBODY, "active": 1}:
                await trio.sleep(0.15)  # It is in use; each message that it moves counts, so ask seldom.
            assert await heard_all(bob, len(texts)) == texts  # After the time that it may wait.
            texts.clear()
            assert await whisper("low") == {**NOBODY, "queued": 1}
            assert await whisper("high") == {**NOBODY, "parked": 1}
            assert await whisper("low") == {**NOBODY, "active": 1}
            assert await heard_all(bob, 3) == texts


async def test_who_is_here_after_a_kill(serve: Serve, tmp_path: Path) -> None:
    """What was set and saved is there when she is back, and who is not back yet is away."""
    data = tmp_path / "data"
    killed = serve(PRESENCE, "--data", data)
    url = f"{killed.url}/presence/kill"
    with trio.fail_after(TIMEOUT):
        async with connect_room(f"{url}?user=ana&device=laptop") as ana:
            async with connect_room(f"{url}?user=bob&device=phone") as bob:
                await ana.ask("status", {"status": "busy"})
                await users_are(bob, ana=[entry("laptop", "busy")], bob=[entry("phone")])
                await saved(data, b"busy", b"phone")
                killed.stop(signal.SIGKILL)
            serve(PRESENCE, "--data", data, "--port", str(killed.port))
            await users_are(ana, ana=[entry("laptop", "busy")], bob=[entry("phone", "away")])


async def saved(data: Path, *shown: bytes) -> None:
    """Wait until the sessions of a room are in the store with what they have set."""
    async with DiskStore(data, read_only=True) as store:
        missing = shown
        while missing:
            rows = await store.sessions("presence/kill")
            missing = tuple(one for one in shown if not any(one in row.link.presence for row in rows))
