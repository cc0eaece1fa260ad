"""What other processes do over HTTP, and what a server survives of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import trio

from tests.raw import TEXT, Client, Served, frame, request, serving, soon
from trio_rooms import Admitted, ConnectRequest, Context, MemoryStore, Room
from trio_rooms._room.lifecycle import Stage
from trio_rooms.testing import FaultyStore

TOKEN: Final = "0123456789abcdef" * 2
NONE: Final = {"active": 0, "parked": 0, "queued": 0, "stored": 0, "dropped": 0}

chat: Room[None] = Room("chat", idle_timeout=3600, connection_idle_timeout=3600)


@chat.authenticate
async def on_request(request: ConnectRequest) -> Admitted:
    """Whoever it says."""
    return Admitted(user=request.query.get("user"))


@chat.on("join")
async def on_join(ctx: Context[None], channel: str) -> str:
    """Into a channel."""
    ctx.connection.join(channel)
    return channel


hidden: Room[None] = Room("hidden", public=False)
hidden.on("x")(on_join)
raw: Room[None] = Room("raw")


@raw.on_message
async def on_raw(_ctx: Context[None], _message: str) -> None:
    """Nothing."""


def ask(
    path: str,
    content: Any = None,
    method: str = "",
    *,
    body: bytes | None = None,
    **headers: str | None,
) -> bytes:
    """A request with the token; content is sent as JSON, a header given as None is left out."""
    if body is None:
        body = b"" if content is None else json.dumps(content).encode()
    fields: dict[str, str | None] = {
        "Host": "localhost",
        "Authorization": f"Bearer {TOKEN}",
        "Content-Length": str(len(body)) if body else None,
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method or ('POST' if body else 'GET')} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def done(served: Served, sent: bytes) -> Any:
    """What is answered to what is right."""
    status, headers, body = await served.ask(sent)
    assert (status, headers["content-type"]) == (200, "application/json"), body
    assert headers["cache-control"] == "no-store"
    return json.loads(body)


async def refused(served: Served, sent: bytes) -> tuple[int, str]:
    """What is answered to what is wrong."""
    status, headers, body = await served.ask(sent)
    assert headers["content-type"] == "application/json", body
    assert headers["connection"] == "close"
    return status, json.loads(body)["error"]


@contextlib.asynccontextmanager
async def admin(**options: Any) -> AsyncIterator[Served]:
    """Rooms, and a server that other processes may ask."""
    async with serving(chat, hidden, raw, serve={"admin_token": TOKEN, **options}) as served:
        yield served


async def said(client: Client) -> Any:
    """What a client gets next."""
    return json.loads((await client.frame())[1])


async def tell(client: Client, event: str, data: Any) -> Any:
    """What a client is answered."""
    await client.send(frame(TEXT, json.dumps({"event": event, "data": data, "id": 1}).encode()))
    return (await said(client))["data"]


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer{TOKEN}", f"Bearer {TOKEN[:-1]}"),
        *(f"Bearer {TOKEN}0", f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN}, Bearer {TOKEN}", "Bearer é"),
    ],
)
async def test_without_the_token_nothing_is_said(authorization: str | None) -> None:
    """Neither what there is nor what is wrong; and of a body nothing is read."""
    async with admin() as served:
        for sent in (
            ask("/users/ana/send", {"event": "x"}, Authorization=authorization),
            ask("/users/ana", Authorization=authorization),
            ask("/rooms/chat/x/emit", body=b"{", Authorization=authorization),
            ask("/rooms/nobody/x", Authorization=authorization),
            ask("/rooms/chat/x", method="PUT", Authorization=authorization),
            ask("/rooms/chat/x", method="OPTIONS", Authorization=authorization),
            ask("/rooms/chat/%FF", Authorization=authorization),
            ask("/users/ana/send", method="POST", Content_Length="1000000", Authorization=authorization),
        ):
            status, headers, body = await served.ask(sent)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert (
                body == b'{"error":"this takes \'Authorization: Bearer TOKEN\', with the token that the '
                b'server was given"}\n'
            )


async def test_without_the_option_there_is_nothing() -> None:
    """The paths are those of no page and no room, whoever asks."""
    async with serving(chat) as served:
        for path in ("/users/ana", "/rooms/chat/x", "/users/ana/send", "/rooms/chat/x/emit"):
            assert (await served.ask(ask(path)))[0] == 404
            assert (await served.ask(ask(path, {"event": "x"})))[0] == 404


async def test_methods() -> None:
    """What can be asked at a path, and what not."""
    async with admin() as served:
        for path, allow in (
            ("/users/ana", "GET, HEAD, OPTIONS"),
            ("/rooms/chat/x", "GET, HEAD, OPTIONS"),
            ("/users/ana/send", "POST, OPTIONS"),
            ("/rooms/chat/x/emit", "POST, OPTIONS"),
        ):
            status, headers, _ = await served.ask(ask(path, method="OPTIONS"))
            assert (status, headers["allow"]) == (200, allow)
            for method in ("PUT", "DELETE", "PATCH", "POST" if allow.startswith("GET") else "GET", "x" * 500):
                status, headers, body = await served.ask(ask(path, method=method))
                assert (status, headers["allow"]) == (405, allow), method
                assert len(body) < 100
        async with served.connection() as client:
            await client.send(ask("/rooms/chat/x", method="HEAD"))
            status, headers, _ = await client.answer(body=False)
            assert (status, int(headers["content-length"]) > 10) == (200, True)
            assert await client.rest() == b""
        for path in (
            "/users/",
            "/users",
            "/users/ana/",
            "/users/ana/send/",
            "/users/a/b/send",
            "/rooms/chat",
        ):
            assert (await served.ask(ask(path)))[0] == 404


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", ["the body is empty", "'event'", "'volatile'"]),
        (b"event=x", ["not JSON"]),
        (b"\xff\xfe", ["not UTF-8"]),
        (b"\xef\xbb\xbf{}", ["not JSON"]),
        (b"[1]", ["no map"]),
        (b"{} {}", ["not JSON"]),
        (b'{"event": "x", "data": NaN}', ["NaN"]),
        (b'{"event": "x", "data": -Infinity}', ["-Infinity"]),
        (b'{"event": "x", "data": "\\ud800"}', ["surrogate"]),
        (b'{"event": "x", "data": ' + b"9" * 5000 + b"}", ["not JSON"]),
        (b'{"event": "x", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ["nested"]),
        (b'{"event": "x", "data": ' + b'{"":' * 100 + b"1" + b"}" * 101, ["nested"]),
        (b"{}", ["'event' is missing"]),
        (b'{"event": ""}', ["'event' is missing"]),
        (b'{"event": null}', ["'event' is missing"]),
        (b'{"event": 7}', ["'event' is a string"]),
        (b'{"event": "' + b"x" * 257 + b'"}', ["256 characters"]),
        (b'{"event": "rooms.welcome"}', ["rooms."]),
        (b'{"event": "x", "volatile": "no"}', ["'volatile' is true or false"]),
        (b'{"event": "x", "volatile": 1}', ["'volatile' is true or false"]),
        (b'{"event": "x", "reliabel": true}', ["'reliabel'"]),
    ],
)
async def test_what_is_wrong_with_a_body_is_said(body: bytes, told: list[str]) -> None:
    """And what is right where that helps; the answer is short whatever was sent."""
    async with admin() as served:
        for path in ("/users/ana/send", "/rooms/chat/x/emit"):
            status, error = await refused(served, ask(path, body=body, method="POST"))
            assert status == 400, error
            assert all(part in error for part in told), error
            assert len(error) < 600
        assert (await done(served, ask("/users/ana")))["waiting"] == 0


@pytest.mark.parametrize(
    ("path", "members", "told"),
    [
        ("/users/ana/send", {"priority": "urgent"}, "'high', 'normal', 'low'"),
        ("/users/ana/send", {"priority": ["high"]}, "'high', 'normal', 'low'"),
        ("/users/ana/send", {"ttl": 0}, "'ttl'"),
        ("/users/ana/send", {"ttl": True}, "'ttl'"),
        ("/users/ana/send", {"ttl": "60"}, "'ttl'"),
        ("/users/ana/send", {"ttl": 1e300}, "ttl"),
        ("/users/ana/send", {"ttl": 10**400}, "ttl"),
        ("/users/ana/send", {"channel": "x"}, "'channel'"),
        ("/users/" + "x" * 257 + "/send", {}, "256"),
        ("/users/%FF/send", {}, "UTF-8"),
        ("/users/%ED%A0%80/send", {}, "UTF-8"),
        ("/rooms/chat/x/emit", {"channel": 3}, "'channel' is a string"),
        ("/rooms/chat/x/emit", {"priority": "high"}, "'priority'"),
        ("/rooms/chat/x/emit", {"reliable": True, "volatile": True}, "volatile"),
        ("/rooms/raw/x/emit", {}, "plain"),
        ("/rooms/chat/%FF/emit", {}, "UTF-8"),
        ("/rooms/chat/%0A/emit", {}, "control characters"),
        ("/rooms/chat/%2E%2E/emit", {}, "'..'"),
    ],
)
async def test_what_is_wrong_with_an_argument_is_said(path: str, members: dict[str, Any], told: str) -> None:
    """Of the path as of the body."""
    async with admin() as served:
        status, error = await refused(served, ask(path, {"event": "x", **members}))
        assert status == 400, error
        assert told in error


async def test_a_room_is_reached() -> None:
    """All of its connections, or a channel's; also one that clients cannot reach, and nobody wakes."""
    async with (
        admin() as served,
        served.client("/chat/a%2Fb?user=ana") as ana,
        served.client("/chat/a%2Fb?user=bob") as bob,
    ):
        assert await tell(ana, "join", "red") == "red"
        path = "/rooms/chat/a%2Fb"
        sent = await done(served, ask(f"{path}/emit", {"event": "hi", "data": {"é": [1, None]}}))
        assert sent["active"] + sent["parked"] == 2
        assert sent["stored"] == sent["dropped"] == 0
        for client in (ana, bob):
            assert await said(client) == {"event": "hi", "data": {"é": [1, None]}}
        members = {"event": "red", "channel": "red", "volatile": None, "reliable": None}
        assert await done(served, ask(f"{path}/emit", members)) == NONE | {"active": 1}
        assert await done(served, ask(f"{path}/emit", {"event": "sure", "reliable": True, "channel": "red"}))
        assert [(await said(ana))["event"] for _ in "12"] == ["red", "sure"]
        assert await done(served, ask(path)) == {
            "key": "chat/a/b",
            "stage": "awake",
            "connections": 2,
            "users": ["ana", "bob"],
        }
        assert await served.rooms.get("chat", "a/b").hibernate()
        assert (await done(served, ask(path)))["stage"] == "asleep"
        sent = await done(served, ask(f"{path}/emit", {"event": "late", "volatile": True}))
        assert sent == NONE | {"parked": 2}
        for client in (ana, bob):
            assert (await said(client))["event"] == "late"
        assert await done(served, ask("/rooms/hidden/x/emit", {"event": "x"})) == NONE
        assert (await done(served, ask("/rooms/hidden/x")))["key"] == "hidden/x"
        assert (await done(served, ask("/rooms/raw/x")))["users"] == []
        for sent_ in (ask("/rooms/nobody/x"), ask("/rooms/nobody/x/emit", {"event": "x"})):
            assert await refused(served, sent_) == (404, "there is no room named 'nobody'")
        assert served.rooms.get("chat", "a/b").info().stage is Stage.ASLEEP
        assert served.rooms.statistics().supervisor.wakes == 1


async def test_a_user_is_reached() -> None:
    """Wherever she is; and where she is not, it waits until she comes."""
    async with admin() as served:
        path = "/users/%C3%A9%2F."
        assert await done(served, ask(path)) == {"user": "é/.", "connections": 0, "rooms": [], "waiting": 0}
        first = {"event": "first", "priority": "low", "ttl": 60, "volatile": False}
        assert await done(served, ask(f"{path}/send", first)) == NONE | {"stored": 1}
        assert await done(served, ask(f"{path}/send", {"event": "gone", "volatile": True})) == NONE | {
            "dropped": 1
        }
        assert (await done(served, ask(path)))["waiting"] == 1
        async with served.client("/chat/x?user=%C3%A9%2F.") as client:
            assert await said(client) == {"event": "first", "data": None}
            await soon(lambda: served.rooms.user("é/.").connections == 1)
            sent = await done(served, ask(f"{path}/send", {"event": "now", "data": 1.5, "priority": "high"}))
            assert sent in (NONE | {"active": 1}, NONE | {"parked": 1})
            assert await said(client) == {"event": "now", "data": 1.5}
            shown = {"user": "é/.", "connections": 1, "rooms": ["chat/x"], "waiting": 0}
            assert await done(served, ask(path)) == shown


async def test_bodies_of_every_kind() -> None:
    """In chunks, behind an Expect, in pieces, in HTTP/1.0, with another request behind: all are read."""
    async with admin() as served:
        path, body = "/rooms/chat/x/emit", json.dumps({"event": "x"}).encode()
        plain = ask(path, body=body)
        assert await done(served, plain.replace(b"HTTP/1.1", b"HTTP/1.0")) == NONE
        assert await done(served, plain + plain) == NONE
        assert await done(served, plain.replace(b"POST /", b"POST http://localhost/")) == NONE
        assert await done(served, plain.replace(b"/emit ", b"/emit?x=1 ")) == NONE
        assert await done(served, plain.replace(b"Bearer ", b"bEARER   ")) == NONE
        assert await done(served, ask(path, body=b" " * ((1 << 20) - len(body)) + body)) == NONE
        chunked = ask(path, method="POST", Transfer_Encoding="chunked")
        chunks = b"".join(b"1;x\r\n%c\r\n" % one for one in body) + b"0\r\nX: y\r\n\r\n"
        assert await done(served, chunked + chunks) == NONE
        async with served.connection() as client:
            for one in plain:
                await client.send(bytes([one]))
            assert (await client.answer())[0] == 200
        async with served.connection() as client:
            expecting = ask(path, body=body, Expect="100-continue").removesuffix(body)
            await client.send(expecting)
            assert await client.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(body)
            assert (await client.answer())[0] == 200
        # Who is refused is not asked for more.
        large = ask(path, method="POST", Expect="100-continue", Content_Length="1048577")
        for status, wrong in ((413, large), (401, large.replace(b"Bearer ", b"Bearer x"))):
            async with served.connection() as client:
                await client.send(wrong)
                assert (await client.answer())[0] == status
                assert await client.rest() == b""
        # Without a body there is nothing to be read, and nobody is read for one.
        assert (await done(served, ask("/rooms/chat/x", body=b"{}", method="GET")))["connections"] == 0


async def test_too_large_a_body_is_not_read() -> None:
    """Who says so is told at once; who does not, as soon as it is. It reads the answer all the same."""
    async with admin() as served:
        path = "/users/ana/send"
        for length in ("1048577", "99999999999999999999"):
            status, error = await refused(served, ask(path, method="POST", Content_Length=length))
            assert (status, error) == (413, "a body has at most 1048576 bytes")
        status, _ = await refused(served, ask(path, body=b"x" * 1_100_000))
        assert status == 413
        chunks = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        status, _ = await refused(served, ask(path, method="POST", Transfer_Encoding="chunked") + chunks * 17)
        assert status == 413


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (
            ask("/users/a/send", body=b"{}").replace(
                b"Content-Length: 2", b"Content-Length: 2\r\ncontent-length: 3"
            ),
            400,
        ),
        (ask("/users/a/send", body=b"{}", Transfer_Encoding="chunked"), 400),
        (ask("/users/a/send", method="POST", Content_Length="-1"), 400),
        (ask("/users/a/send", method="POST", Content_Length="9" * 5000), 400),
        (ask("/users/a/send", method="POST", Transfer_Encoding="chunked") + b"zz\r\n", 400),
        (ask("/users/a/send", method="POST", Transfer_Encoding="gzip, chunked"), 501),
        (ask("/users/a/send", body=b"{}", Content_Encoding="gzip"), 415),
        (ask("/users/a/send", body=b"{}", Expect="miracles"), 417),
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused(sent: bytes, status: int) -> None:
    """And what nobody here can do; each is answered and nothing is sent."""
    async with admin() as served:
        got, headers, _ = await served.ask(sent)
        assert (got, headers["connection"]) == (status, "close")


async def test_a_body_that_does_not_come() -> None:
    """It has the time of a handshake, however it trickles; one that ends early is told so."""
    async with admin(handshake_timeout=0.2) as served:
        sent = ask("/users/ana/send", body=b'{"event": "x"}')
        assert await refused(served, sent[:-1]) == (408, "the body did not come within 0.2 s")
        async with served.connection() as client:
            assert isinstance(client.stream, trio.SocketStream)
            await client.send(sent[:-1])
            await client.stream.send_eof()
            status, _, body = await client.answer()
            assert (status, b"ended after 13 bytes" in body) == (400, True)
        async with served.connection() as client:
            await client.send(sent[:-1])
        await soon(lambda: served.rooms.statistics().servers[0].handshaking == 0)
        assert served.rooms.statistics().hub.sockets == 0


async def test_where_clients_have_the_same_paths() -> None:
    """Who wants a WebSocket is a client; and where no other has a place, processes still have one."""
    options = {"prefix": "/rooms", "max_connections": 1}
    async with admin(**options) as served, served.client("/rooms/chat/x?user=ana") as ana:
        shown = await done(served, ask("/rooms/chat/x"))
        assert (shown["connections"], shown["users"]) == (1, ["ana"])
        assert (await served.ask(request("/rooms/chat/x")))[0] == 503
        assert (await served.ask(request("/rooms/chat/x", Upgrade=None)))[0] == 401
        await done(served, ask("/rooms/chat/x/emit", {"event": "x"}))
        assert (await said(ana))["event"] == "x"


async def test_many_at_once() -> None:
    """More than are read at a time wait for their turn, and hold up no client."""
    path = "/rooms/chat/x/emit"
    half = ask(path, {"event": "x"})[:-1]
    async with admin(handshake_timeout=1) as served, contextlib.AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(served.connection()) for _ in range(40)]
        for one in slow:
            await one.send(half)
        await soon(lambda: served.rooms.statistics().servers[0].handshaking == 40)
        async with served.client("/chat/x") as client:
            assert await tell(client, "join", "x") == "x"
            for one in slow:
                await one.send(b"}")
            for one in slow:
                assert (await one.answer())[0] == 200
            for _ in slow:
                assert (await said(client))["event"] == "x"


async def test_a_request_at_the_stop_is_told_what_became_of_it() -> None:
    """Who has not sent it all is told that nothing was done; what has begun is done, and told."""
    store = FaultyStore(MemoryStore())
    path = "/rooms/chat/x/emit"
    async with (
        serving(chat, serve={"admin_token": TOKEN}, store=store, close_timeout=0.1) as served,
        served.client("/chat/x", Sec_WebSocket_Protocol="trio-rooms.v1.json") as client,
        served.connection() as late,
        served.connection() as held,
    ):
        assert (await said(client))["event"] == "rooms.welcome"
        await late.send(ask(path, {"event": "x"})[:-1])
        gate = store.hold_commits("chat/x")
        await held.send(ask(path, {"event": "x", "reliable": True}))
        await gate.wait_arrived()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.rooms.aclose)
            status, headers, body = await late.answer()
            assert (status, headers["retry-after"]) == (503, "5")
            assert b"nothing was done" in body
            gate.release()
            assert (await held.answer())[0] == 200


@pytest.mark.parametrize(
    "token",
    ["", "x" * 31, "x" * 31 + " ", "x" * 31 + "\n", "é" * 32, "x" * 16 + " " + "x" * 16, 7, b"x" * 32],
)
async def test_what_can_be_no_token(token: Any) -> None:
    """A server does not begin with it, and its error does not tell it."""
    async with serving(chat) as served:
        with pytest.raises((TypeError, ValueError), match=r"^admin_token is ") as raised:
            await served.rooms.serve("127.0.0.1", 0, admin_token=token)
        assert "xxx" not in str(raised.value)
