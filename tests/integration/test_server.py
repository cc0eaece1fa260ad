"""Who is let in, who is turned away and with what, and what a server survives."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.raw import BINARY, PING, PONG, TEXT, Client, Served, close_frame, frame, request, serving, soon
from trio_rooms import ConnectRequest, Context, Refused, Room
from trio_rooms._room.lifecycle import Stage
from trio_rooms._server.server import Address
from trio_rooms._sockets.links import SocketLink

echo: Room[None] = Room("echo", page="<h1>hello</h1>")


@echo.on_message
async def on_echo(ctx: Context[None], message: str | bytes) -> None:
    """Send it back."""
    ctx.connection.send(message)


who: Room[None] = Room("who")


@who.on_message
async def on_who(ctx: Context[None], message: str) -> None:
    """Say which room this is."""
    ctx.connection.send(json.dumps({"id": ctx.room.id, "attachment": ctx.connection.attachment}))


guarded: Room[None] = Room("guarded", attachment_limit=1000)
ASKED: dict[str, trio.Event] = {}
ALLOWED: dict[str, trio.Event] = {}


@guarded.authenticate
async def on_guarded(request: ConnectRequest) -> Any:
    """Do what the query asks for."""
    wanted = request.query.get("as", "")
    if wanted.isdigit():
        raise Refused(int(wanted), "not you")
    if wanted == "error":
        raise OSError("the database is gone")
    if wanted == "large":
        return "x" * 2000
    if wanted == "odd":
        return object()
    if wanted == "slow":
        ASKED[request.id].set()
        await ALLOWED[request.id].wait()
    return {"user": wanted, "agent": request.headers.get("user-agent"), "remote": request.remote}


@guarded.on_message
async def on_guarded_message(ctx: Context[None], message: str) -> None:
    """Show the attachment."""
    ctx.connection.send(json.dumps(ctx.connection.attachment))


async def works(client: Client) -> None:
    """An echo comes back."""
    await client.send(frame(TEXT, b"well"))
    assert await client.frame() == (TEXT, b"well")


hidden: Room[None] = Room("hidden", public=False, page="<h1>secret</h1>")


@hidden.on_any
async def on_hidden(ctx: Context[None]) -> None:
    """Nothing: that it is there is the secret."""


async def test_a_private_room_is_as_one_that_is_not_there() -> None:
    """Whatever a stranger asks about it, the answer is that to any name that was never given."""
    async with serving(hidden, echo, who) as served:
        await served.rooms.get("hidden", "x").ask("wake")
        for path in ("/hidden/x", "/stats/hidden/x", "/why/hidden/x", "/hidden", "/hidden/" + "x" * 257):
            for headers in ({}, {"Upgrade": None}):
                known = await served.ask(request(path, **headers))
                unknown = await served.ask(request(path.replace("hidden", "nobody"), **headers))
                assert known[0] == unknown[0] == 404
                assert known[2] == unknown[2].replace(b"nobody", b"hidden")
        assert b"secret" not in (await served.ask(request("/", Upgrade=None)))[2]
        assert b"hidden" not in (await served.ask(request("/stats", Upgrade=None)))[2]
    async with serving(hidden, who) as served:
        assert (await served.ask(request("/", Upgrade=None)))[2] == b"rooms at /{room}/{id}: who\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/nobody/x"), 404),
        (request("/echo"), 404),
        (request("/echo/"), 404),
        (request("/echo/x/y"), 404),
        (request("//x"), 404),
        (request("/echo/" + "x" * 257), 400),
        (request("/echo/a%00b"), 400),
        (request("/echo/a%0Ab"), 400),
        (request("/echo/a%7F"), 400),
        (request("/echo/%C2%85"), 400),
        (request("/echo/%ff"), 400),
        (request("/echo/.."), 400),
        (request("/echo/%2e%2E"), 400),
        (request("/echo/."), 400),
        (request("/echo/x", Content_Length="5") + b"hello", 400),
        (request("/echo/x", Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
        (request("/echo/%ED%A0%80"), 400),
        (request("/%ff/x"), 400),
        (request("/echo/x", Upgrade=None), 426),
        (request("/echo/x", Upgrade="h2c"), 426),
        (request("/echo/x", Sec_WebSocket_Version="8"), 426),
        (request("/echo/x", Sec_WebSocket_Version=None), 426),
        (request("/echo/x", Sec_WebSocket_Key=None), 400),
        (request("/echo/x", Sec_WebSocket_Key="short"), 400),
        (request("/echo/x", Sec_WebSocket_Key="c2hvcnQ="), 400),
        (request("/echo/x", Sec_WebSocket_Key="!" * 24), 400),
        (request("/echo/x", Sec_WebSocket_Key="é" * 24), 400),
        (request("/echo/x", Connection="keep-alive"), 400),
        (request("/echo/x", "GET", "1.0"), 400),
        (request("/echo/x", "POST"), 405),
        (request("/echo/x", "HEAD", Upgrade=None, Content_Length="0"), 426),
        (request("/echo/x", "HEAD"), 426),
        (request("/echo/x", "DELETE", Upgrade=None), 405),
        (request("/guarded/x?as=401"), 401),
        (request("/guarded/x?as=403"), 403),
        (request("/guarded/x?as=599"), 599),
        (request("/guarded/x?as=error"), 500),
        (request("/guarded/x?as=large"), 500),
        (request("/guarded/x?as=odd"), 500),
    ],
)
async def test_who_is_turned_away_is_told_why(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the 101 each reason has its own HTTP status, and no room is made or woken."""
    async with serving(echo, guarded) as served, served.connection() as client:
        await client.send(sent)
        got, headers, body = await client.answer(body=not sent.startswith(b"HEAD"))
        assert await client.rest() == b""
        assert got == status
        assert headers["connection"].startswith("close")
        assert int(headers["content-length"]) > 0
        if status == 426:
            assert headers["upgrade"] == "websocket"
        elif status == 405:
            assert headers["allow"] == "GET, HEAD, OPTIONS"
        elif status == 401:
            assert headers["www-authenticate"] == "Bearer"
        elif b"as=4" in sent:
            assert body == b"not you\n"
        assert b"database" not in body
        statistics = served.rooms.statistics()
        assert statistics.supervisor.wakes == 0
        assert statistics.hub.rosters == 0
        assert statistics.servers[0].refused == 1
    assert (status == 500) is ("authenticate raised" in caplog.text)


@pytest.mark.parametrize(
    ("path", "id_"),
    [
        ("/who/lobby", "lobby"),
        ("/who/a%2Fb%3Fc", "a/b?c"),
        ("/who/%C3%A9%F0%9F%98%80", "é😀"),
        ("/who/a+b", "a+b"),
        ("/who/%2525", "%25"),
        ("/who/...", "..."),
        ("/who/..x", "..x"),
        ("/wh%6F/x", "x"),
        ("/who/" + "x" * 256, "x" * 256),
        ("/who/" + "%F0%9F%98%80" * 256, "😀" * 256),
        ("/who/x?resume=1#no", "x"),
        ("http://localhost/who/x", "x"),
    ],
)
async def test_an_id_is_what_the_percent_encoding_says(path: str, id_: str) -> None:
    """Slashes, signs and any script may stand in an id, percent-encoded as UTF-8."""
    async with serving(who) as served, served.client(path) as client:
        await client.send(frame(TEXT, b"?"))
        assert json.loads((await client.frame())[1])["id"] == id_
        assert served.rooms.get("who", id_).info().connections == 1


async def test_the_attachment_is_what_authenticate_returned() -> None:
    """The query and headers reach authenticate, and what it returns reaches the handlers."""
    async with serving(guarded) as served, served.client("/guarded/x?as=eve&x=", User_Agent="test") as client:
        await client.send(frame(TEXT, b"?"))
        attachment = json.loads((await client.frame())[1])
        assert attachment.pop("remote").startswith("127.0.0.1:")
        assert attachment == {"user": "eve", "agent": "test"}


spoken: Room[None] = Room("spoken", subprotocols=["mqtt", "v2", "v1"], idle_timeout=0)


@spoken.authenticate
async def on_spoken(request: ConnectRequest) -> list[str]:
    """Write down what was offered."""
    return list(request.subprotocols)


@spoken.on_message
async def on_spoken_message(ctx: Context[None], message: str) -> None:
    """Say what was chosen, and what was offered."""
    ctx.connection.send(json.dumps([ctx.connection.subprotocol, ctx.connection.attachment]))


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, None),
        ("mqtt", "mqtt"),
        ("v1, v2", "v1"),
        ("odd,v2 ,\tv1", "v2"),
        ("odd, trio-rooms.v1.json", None),
        ("MQTT", None),
        (", ,", None),
    ],
)
async def test_the_first_that_the_client_offers_is_chosen(offered: str | None, chosen: str | None) -> None:
    """Of the room's subprotocols, in the client's order; none is forced on a client, and none refuses it."""
    async with serving(spoken) as served, served.connection() as client:
        await client.send(request("/spoken/x", Sec_WebSocket_Protocol=offered))
        status, headers, _ = await client.answer(body=False)
        assert status == 101
        assert headers.get("sec-websocket-protocol") == chosen
        names = [] if offered is None else [one.strip() for one in offered.split(",") if one.strip()]
        for _ in range(2):
            await client.send(frame(TEXT, b"?"))
            assert json.loads((await client.frame())[1]) == [chosen, names]
            await soon(lambda: served.rooms.get("spoken", "x").info().stage is Stage.ASLEEP)


async def test_subprotocols_in_two_headers_are_one_list() -> None:
    """As in any list of HTTP."""
    sent = request("/spoken/x", Sec_WebSocket_Protocol="odd")
    sent = sent.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: v2\r\n\r\n")
    async with serving(spoken) as served, served.connection() as client:
        await client.send(sent)
        _, headers, _ = await client.answer(body=False)
        assert headers["sec-websocket-protocol"] == "v2"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://good.example", 101),
        (None, 101),
        ("https://bad.example", 403),
        ("https://good.example.bad", 403),
    ],
)
async def test_origins_are_checked_where_they_are_given(origin: str | None, status: int) -> None:
    """A browser from elsewhere gets 403; who is no browser sends no Origin."""
    async with (
        serving(echo, serve={"origins": ["https://good.example"]}) as served,
        served.connection() as client,
    ):
        await client.send(request("/echo/x", Origin=origin))
        assert (await client.answer())[0] == status


async def test_over_max_connections_is_503_until_one_leaves() -> None:
    """The limit counts open connections; a client is told when to come back."""
    async with serving(echo, serve={"max_connections": 2}) as served:
        async with served.client("/echo/x"), served.client("/echo/y"):
            status, headers, _ = await served.ask(request("/echo/x"))
            assert status == 503
            assert int(headers["retry-after"]) > 0
            assert (await served.ask(request("/healthz", Upgrade=None)))[0] == 200
        await soon(lambda: served.rooms.statistics().hub.sockets == 0)
        async with served.client("/echo/x") as client:
            await works(client)


async def test_who_does_not_ask_and_who_does_not_leave_takes_nobodys_place() -> None:
    """Half a request is no connection, and neither is one that has its answer: others come and are served."""
    half = b"GET "
    async with serving(echo, serve={"max_connections": 2}) as served, contextlib.AsyncExitStack() as stack:
        for number in range(60):
            client = await stack.enter_async_context(served.connection())
            await client.send(request("/nothing") if number % 3 == 0 else half)
        accepted = served.rooms.statistics().servers[0]
        assert accepted.handshaking <= 2 + 8
        await trio.sleep(0.1)
        with trio.fail_after(3):
            async with served.client("/echo/x") as one, served.client("/echo/y") as other:
                await works(one)
                await works(other)
                assert (await served.ask(request("/echo/x")))[0] == 503


async def test_a_connection_that_closes_has_its_place_until_it_is_closed() -> None:
    """Its descriptor is in use: the other side does not answer, or does not leave."""
    async with (
        serving(echo, serve={"max_connections": 1}, close_timeout=0.2) as served,
        served.client("/echo/x") as client,
    ):
        await client.send(b"\x00\x00")
        assert (await client.closed())[0] == 1002
        assert served.rooms.statistics().hub.sockets == 0
        assert (await served.ask(request("/echo/x")))[0] == 503
        await soon(lambda: served.rooms.statistics().hub.closing == 0)
        async with served.client("/echo/x") as other:
            await works(other)


async def test_many_at_once_do_not_pass_the_limit_together() -> None:
    """Clients that authenticate are counted, so that no more get in than may."""
    ids = [f"many{number}" for number in range(10)]
    async with serving(guarded, serve={"max_connections": 3}) as served, contextlib.AsyncExitStack() as stack:
        clients = []
        for id_ in ids:
            ASKED[id_], ALLOWED[id_] = trio.Event(), trio.Event()
            client = await stack.enter_async_context(served.connection())
            await client.send(request(f"/guarded/{id_}?as=slow"))
            clients.append(client)
        for id_ in ids:
            ALLOWED[id_].set()
        statuses = [(await client.answer())[0] for client in clients]
        assert sorted(statuses) == [101] * 3 + [503] * 7


async def test_pages() -> None:
    """The server answers a few pages in plain HTTP on the same port, also to HEAD and to HTTP/1.0."""
    async with serving(echo) as served:
        status, headers, body = await served.ask(request("/", Upgrade=None))
        assert (status, headers["content-type"], body) == (200, "text/html; charset=utf-8", b"<h1>hello</h1>")
        status, headers, body = await served.ask(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert headers.pop("date").endswith(" GMT")
        assert (status, headers, body) == (
            200,
            {"content-type": "text/plain; charset=utf-8", "content-length": "3", "connection": "close"},
            b"ok\n",
        )
        _, _, body = await served.ask(request("/stats", Upgrade=None))
        assert json.loads(body)["servers"][0]["accepted"] == 3
        _, _, body = await served.ask(request("/stats/echo/x", Upgrade=None))
        assert json.loads(body) == {"key": "echo/x", "stage": "asleep", "connections": 0}
        assert (await served.ask(request("/stats/nobody/x", Upgrade=None)))[0] == 404
        _, _, body = await served.ask(request("/why/echo/x", Upgrade=None))
        assert json.loads(body) == {"key": "echo/x", "stage": "asleep", "reasons": []}
        asked = request("/metrics", Upgrade=None, Accept="application/openmetrics-text; version=1.0.0")
        status, headers, body = await served.ask(asked)
        assert (status, headers["content-type"].partition(";")[0]) == (200, "application/openmetrics-text")
        assert b'trio_rooms_handshakes_total{outcome="accepted"} 7.0\n' in body
        async with served.connection() as client:
            await client.send(request("/", "HEAD", Upgrade=None))
            status, headers, _ = await client.answer(body=False)
            assert (status, headers["content-length"]) == (200, "14")
            assert await client.rest() == b""
        status, headers, _ = await served.ask(request("/healthz", "POST", Upgrade=None))
        assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_the_client_is_served() -> None:
    """As a module for any page; once to each browser, until there is another one."""
    async with serving(echo, serve={"prefix": "/ws"}) as served:
        status, headers, body = await served.ask(request("/trio-rooms.js", Upgrade=None))
        assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        assert headers["access-control-allow-origin"] == "*"
        assert headers["cache-control"] == "no-cache"
        assert b"export function connectRoom(" in body
        tag = headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            for method in ("GET", "HEAD"):
                sent = request("/trio-rooms.js", method, Upgrade=None, If_None_Match=known)
                status, headers, body = await served.ask(sent)
                assert (status, headers["etag"], body) == (304, tag, b"")
                assert "content-length" not in headers
        sent = request("/trio-rooms.js", "HEAD", Upgrade=None, If_None_Match='"other"')
        async with served.connection() as client:
            await client.send(sent)
            status, headers, _ = await client.answer(body=False)
            assert (status, int(headers["content-length"]) > 10_000) == (200, True)
            assert await client.rest() == b""
        # A page that has no tag is always new.
        assert (await served.ask(request("/healthz", Upgrade=None, If_None_Match="*")))[0] == 200


@pytest.mark.parametrize("target", ["/ HTTP/1.0", "* HTTP/1.1", "http://x HTTP/1.1", "/echo/x HTTP/1.1"])
async def test_options_says_what_there_is(target: str) -> None:
    """A load balancer's bare check asks with OPTIONS, and finds the server well."""
    async with serving(echo) as served:
        sent = f"OPTIONS {target}\r\nHost: x\r\n\r\n".encode()
        status, headers, body = await served.ask(sent)
        assert (status, headers["allow"], body) == (200, "GET, HEAD, OPTIONS", b"")
        status, headers, _ = await served.ask(sent.replace(b"OPTIONS", b"POST"))
        assert (status, headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_each_response_is_the_last() -> None:
    """Requests are not kept alive: what comes behind the first is not answered, and resets nothing."""
    async with serving(echo) as served:
        sent = request("/healthz", Upgrade=None, Connection=None)
        status, headers, body = await served.ask(sent * 3)
        assert (status, headers["connection"], body) == (200, "close", b"ok\n")


async def test_an_answer_survives_a_request_with_a_body() -> None:
    """A client that sends a megabyte with its request still reads why it was turned away."""
    async with serving(echo) as served:
        sent = request("/echo/x", "POST", Upgrade=None, Content_Length="1000000") + b"x" * 1_000_000
        assert (await served.ask(sent))[0] == 405


async def test_prefix_and_template() -> None:
    """Rooms are where the prefix and the template say, and nowhere else."""
    async with serving(who, serve={"prefix": "/ws/", "template": "/v1/{id}.{room}"}) as served:
        async with served.client("/ws/v1/a%2Fb.who") as client:
            await client.send(frame(TEXT, b"?"))
            assert json.loads((await client.frame())[1])["id"] == "a/b"
        assert (await served.ask(request("/who/x")))[0] == 404
        assert (await served.ask(request("/ws/v1/xXwho")))[0] == 404


NO_ORIGINS = [
    *("*", "example.org", "localhost:3000", "https://*.example.org", "https://example.org/", "https://a.b/c"),
    *("https://Example.org", "HTTPS://example.org", "https://example.org:443", "http://example.org:80", ""),
    *(
        "wss://example.org",
        "ws://example.org",
        "https://bücher.example",
        "https://a.b?c",
        "https://u@a.b",
        "https://",
    ),
    *("https://a.b, https://c.d", " https://a.b", "//a.b", "https:/a.b", "http://a.b:0080", "http://::1"),
]


@pytest.mark.parametrize(
    "options",
    [
        {"template": "/{room}"},
        {"template": "/{room}/{id}/{id}"},
        {"prefix": "ws"},
        {"origins": "https://one"},
        {"origins": [None]},
        {"origins": [b"https://one"]},
        *({"origins": ["https://good.example", one]} for one in NO_ORIGINS),
    ],
)
async def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    """A server that nobody could reach, or that lets in more than it says, does not start."""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with serving(echo, serve=options):
            pass
    assert caught.group_contains((ValueError, TypeError))


@pytest.mark.parametrize(
    "origin",
    [
        "https://a.b",
        "http://localhost:3000",
        "http://[::1]:8000",
        "http://127.0.0.1",
        "chrome-extension://abc",
        "null",
        "file://",
        "https://xn--bcher-kva.example",
        "https://x:80",
        "http://x:443",
        "capacitor://localhost",
    ],
)
async def test_what_browsers_send_is_an_origin(origin: str) -> None:
    """Whoever sends just that is let in."""
    async with serving(echo, serve={"origins": [origin]}) as served:
        async with served.client("/echo/x", Origin=origin):
            pass
        assert (await served.ask(request("/echo/x", Origin="https://other")))[0] == 403


no: Room[None] = Room("no", subprotocols=["mqtt"])
REFUSED: dict[str, Refused] = {}


@no.authenticate
async def on_no(request: ConnectRequest) -> None:
    """Refuse everybody, as the test says."""
    raise REFUSED[request.id]


@no.on_connect
@no.on_disconnect
@no.on_message
async def never(ctx: Context[None]) -> None:
    """What nobody is let into hears of nobody."""
    pytest.fail("the room was told")


async def refused_with(refused: Refused, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """What a client gets that a room refuses so."""
    REFUSED["x"] = refused
    async with serving(no) as served, served.connection() as client:
        await client.send(request("/no/x", **headers))
        answer = await client.answer()
        if answer[0] == 101:
            assert await client.closed() == (refused.close, refused.reason)
        else:
            assert await client.rest() == b""
        statistics = served.rooms.statistics()
        assert statistics.servers[0].refused == 1
        assert statistics.servers[0].opened == statistics.supervisor.wakes == 0
        assert statistics.hub.rosters == statistics.hub.sockets == statistics.hub.closing == 0
    return answer


async def test_a_refusal_has_its_headers() -> None:
    """Those that the application gives; a 401 always says how to authenticate."""
    _, headers, body = await refused_with(
        Refused(401, "who?", headers={"www-authenticate": 'Basic realm="x"'})
    )
    assert headers["www-authenticate"] == 'Basic realm="x"'
    assert body == b"who?\n"
    status, headers, _ = await refused_with(Refused(429, headers={"Retry-After": "7", "X-Name": "é"}))
    assert (status, headers["retry-after"], headers["x-name"]) == (429, "7", "é")
    assert "www-authenticate" not in headers


async def test_a_refusal_can_be_a_close() -> None:
    """A page cannot see a status, but a close code; the WebSocket is opened for that, and nobody is woken."""
    status, headers, _ = await refused_with(
        Refused(403, "no", close=4403), Sec_WebSocket_Protocol="odd, mqtt"
    )
    assert (status, headers["sec-websocket-protocol"]) == (101, "mqtt")
    await refused_with(Refused(close=1008))


REFUSAL = "trio-rooms.refusal"


@pytest.mark.parametrize("offered", [REFUSAL, f"mqtt, {REFUSAL}"])
async def test_a_client_can_ask_to_be_refused_with_a_close(offered: str) -> None:
    """The code is that of the status and 4000, the subprotocol says that it is one."""
    headers = {"Sec_WebSocket_Protocol": offered}
    for path, origin, code in [
        ("/nobody/x", None, 4404),
        ("/", None, 4404),
        ("/echo/%00", None, 4400),
        ("/echo/x", None, 4400),  # It has none of what is offered.
        ("/no/x", "http://other", 4403 if "mqtt" in offered else 4400),
        ("/no/x", None, 4401 if "mqtt" in offered else 4400),
    ]:
        REFUSED["x"] = Refused(401, "é" * 100)
        async with serving(no, echo, serve={"origins": ["http://here"]}) as served:
            async with served.connection() as client:
                await client.send(request(path, Origin=origin, **headers))
                status, answered, _ = await client.answer(body=False)
                assert (status, answered["sec-websocket-protocol"]) == (101, REFUSAL)
                closed, reason = await client.closed()
                assert closed == code
                assert reason == ("é" * 61 if code == 4401 else reason)
                assert reason
            statistics = served.rooms.statistics()
            assert statistics.servers[0].refused == 1
            assert statistics.servers[0].opened == statistics.hub.rosters == statistics.hub.sockets == 0
            assert statistics.hub.closes == {code: 1}


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_what_may_be_otherwise_soon_stays_a_status(status: int) -> None:
    """A page tries again where its connection just failed, and so it should."""
    answered, _, body = await refused_with(
        Refused(status, "later"), Sec_WebSocket_Protocol=f"mqtt, {REFUSAL}"
    )
    assert (answered, body) == (status, b"later\n")


async def test_only_a_good_handshake_is_refused_with_a_close() -> None:
    """Where no WebSocket can be opened there is nothing to close; nor where the client did not ask for it."""
    async with serving(echo) as served:
        odd: list[tuple[str, dict[str, str | None], int]] = [
            ("/nobody/x", {"Upgrade": None}, 404),
            ("/echo/x", {"Upgrade": None}, 426),
            ("/nobody/x", {"Sec_WebSocket_Key": "short"}, 404),
            ("/nobody/x", {"Sec_WebSocket_Protocol": f"{REFUSAL}s"}, 404),
        ]
        for path, headers, status in odd:
            wanted: dict[str, str | None] = {"Sec_WebSocket_Protocol": REFUSAL, **headers}
            sent = request(path, **wanted)
            assert (await served.ask(sent))[0] == status


async def test_who_was_refused_with_a_close_and_stays_is_cut_off() -> None:
    """It takes no place, and may send what it likes for a while."""
    REFUSED["x"] = Refused(reason="é" * 100, close=4403)
    async with (
        serving(no, echo, serve={"max_connections": 1}) as served,
        served.connection() as client,
    ):
        await client.send(request("/no/x") + frame(TEXT, b"hello"))
        await client.answer(body=False)
        assert await client.closed() == (4403, "é" * 61)
        async with served.client("/echo/x") as other:
            await works(other)
        await client.send(frame(TEXT, b"hello"))
        await soon(lambda: served.rooms.statistics().servers[0].handshaking == 0)
        assert served.rooms.statistics().hub.closes == {4403: 1}


FIRST = (b"zero", b"one" * 20_000, b"two")
"""Messages that a client sends together with its request, and how much of them in the same segment:"""
SPLITS = {
    "half a header": 1,
    "half a frame": 7,
    "one frame": len(frame(TEXT, FIRST[0])),
    "one and a half": 3000,
    "two": len(frame(TEXT, FIRST[0]) + frame(TEXT, FIRST[1])),
    "all": len(b"".join(frame(TEXT, text) for text in FIRST)),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
async def test_frames_behind_the_request_are_not_lost(split: int) -> None:
    """What a client sends in the same segment as its request is read as frames, to the last half."""
    sent = b"".join(frame(TEXT, text) for text in FIRST)
    async with serving(echo) as served, served.client("/echo/x", first=sent[:split]) as client:
        await client.send(sent[split:])
        assert [await client.frame() for _ in FIRST] == [(TEXT, text) for text in FIRST]


async def test_who_says_nothing_holds_no_task() -> None:
    """Clients whose request has not come cost a record each, and a stop closes them."""
    async with (
        serving(echo, serve={"handshake_timeout": 3600.0}) as served,
        contextlib.AsyncExitStack() as stack,
    ):
        async with served.client("/echo/x") as client:
            await works(client)
        tasks = trio.lowlevel.current_statistics().tasks_living
        clients = [await stack.enter_async_context(served.connection()) for _ in range(50)]
        for client in clients[::2]:
            await client.send(request("/echo/x")[:40])
        server = served.rooms.statistics
        await soon(lambda: server().servers[0].handshaking == 50)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        await served.rooms.aclose()
        for client in clients:
            assert await client.rest() == b""


async def test_the_limit_holds_for_those_who_come_at_once() -> None:
    """However many ask in the same moment, no more are let in than may be."""
    ASKED["many"], ALLOWED["many"] = trio.Event(), trio.Event()
    async with serving(guarded, serve={"max_connections": 2}) as served:
        address = served.address.host, served.address.port
        clients = [socket.create_connection(address) for _ in range(8)]
        for client in clients:
            client.sendall(request("/guarded/many?as=slow"))
        await soon(lambda: served.rooms.statistics().servers[0].refused == 6)
        ALLOWED["many"].set()
        answers = [await trio.to_thread.run_sync(client.recv, 100) for client in clients]
        assert sorted(answer.split()[1] for answer in answers) == [b"101"] * 2 + [b"503"] * 6
        for client in clients:
            client.close()


async def test_who_was_refused_takes_no_place() -> None:
    """A client that authenticate refused and that stays keeps nobody out."""
    async with (
        serving(guarded, serve={"max_connections": 1}) as served,
        served.connection() as refused,
        served.connection() as good,
    ):
        await refused.send(request("/guarded/x?as=403"))
        status, *_ = await refused.answer()
        assert status == 403
        await good.send(request("/guarded/x"))
        status, *_ = await good.answer(body=False)
        assert status == 101


async def test_a_default_timeout_of_sockets_stops_nothing() -> None:
    """A program may have told its own sockets to wait; the server does not."""
    socket.setdefaulttimeout(60)
    try:
        async with serving(echo) as served:
            with trio.fail_after(20):
                async with served.client("/echo/x") as client:
                    await works(client)
    finally:
        socket.setdefaulttimeout(None)


async def test_who_leaves_at_any_point_of_its_handshake_touches_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client may end or reset its connection after any byte of its request."""
    whole = request("/echo/x") + frame(TEXT, b"hi")
    async with serving(echo) as served, served.client("/echo/x") as other:
        for size in range(0, len(whole) + 1, 3):
            for reset in (False, True):
                async with served.connection() as client:
                    assert isinstance(client.stream, trio.SocketStream)
                    if reset:
                        linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
                        client.stream.setsockopt(1, 13, linger)  # SOL_SOCKET, SO_LINGER of 0 s: a reset
                    await client.send(whole[:size])
        await works(other)
        await soon(lambda: served.rooms.statistics().servers[0].handshaking == 0)
        await soon(lambda: served.rooms.statistics().hub.sockets == 1)
    assert not caplog.records


async def test_who_leaves_during_authenticate_is_not_let_in() -> None:
    """A client that was gone before it was let in leaves nothing behind."""
    ASKED["left"], ALLOWED["left"] = trio.Event(), trio.Event()
    async with serving(guarded) as served:
        async with served.connection() as client:
            await client.send(request("/guarded/left?as=slow"))
            await ASKED["left"].wait()
        ALLOWED["left"].set()
        await soon(lambda: served.rooms.statistics().servers[0].handshaking == 0)
        await soon(lambda: served.rooms.statistics().hub.sockets == 0)
        assert served.rooms.statistics().hub.rosters == 0


async def test_authenticate_has_the_handshake_timeout(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that hangs costs its own client alone, which is told, and so is the log."""
    ASKED["hang"], ALLOWED["hang"] = trio.Event(), trio.Event()
    async with (
        serving(guarded, echo, serve={"handshake_timeout": 0.2}) as served,
        served.connection() as client,
        served.client("/echo/x") as other,
    ):
        await client.send(request("/guarded/hang?as=slow"))
        status, headers, body = await client.answer()
        assert (status, headers["retry-after"]) == (503, "5")
        assert b"in time" in body
        assert await client.rest() == b""
        await works(other)
        assert served.rooms.statistics().servers[0].refused == 1
    assert "room guarded/hang: authenticate took longer than the 0.2 s" in caplog.text


async def test_who_waits_for_authenticate_is_told_that_the_server_stops() -> None:
    """It would else find a connection that broke off, as after a crash."""
    ASKED["stop"], ALLOWED["stop"] = trio.Event(), trio.Event()
    async with serving(guarded) as served, served.connection() as client:
        await client.send(request("/guarded/stop?as=slow"))
        await ASKED["stop"].wait()
        await served.rooms.aclose()
        status, _, body = await client.answer()
        assert (status, body) == (503, b"the server is going away\n")
        assert await client.rest() == b""


async def test_a_server_that_stops_listening_keeps_its_connections() -> None:
    """Cancelling serve() refuses new clients; who was let in stays."""
    async with serving(echo) as served, trio.open_nursery() as nursery:
        address = await nursery.start(served.rooms.serve, "127.0.0.1", 0)
        second = Served(address, served.rooms)
        async with second.client("/echo/x") as client:
            await works(client)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await soon(lambda: len(served.rooms.statistics().servers) == 1)
                with pytest.raises(OSError, match=r"."):
                    async with second.connection():
                        pass
                await works(client)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
async def test_clients_that_came_and_went_leave_nothing() -> None:
    """No descriptor, record or roster remains of clients, however they went."""
    async with serving(echo, guarded, close_timeout=0.2) as served:
        await trio.testing.wait_all_tasks_blocked()
        before = _descriptors()
        for number in range(60):
            async with served.client(f"/echo/{number}") as client:
                if number % 2:
                    await works(client)
                if number % 3 == 0:
                    await client.send(close_frame(1000))
                    await client.closed()
                elif number % 3 == 1:
                    await client.send(frame(TEXT, b"x", masked=False))
            await served.ask(request("/guarded/x?as=401"))
        await soon(lambda: served.rooms.statistics().hub.sockets + served.rooms.statistics().hub.closing == 0)
        for number in range(60):
            await served.rooms.get("echo", str(number)).hibernate()
        await soon(lambda: _descriptors() <= before)
        assert served.rooms.statistics().hub.rosters == 0
        # The last one that was read from may be in a variable of the task that reads.
        await soon(lambda: _records() <= 1)


def _records() -> int:
    gc.collect()
    return sum(isinstance(one, SocketLink) for one in gc.get_objects())


async def test_reused_descriptors_never_mix_bytes_up() -> None:
    """Whatever comes and goes, in whatever way, nobody gets another's bytes."""
    rng = random.Random(7)

    async def one(served: Served, number: int) -> None:
        for turn in range(25):
            mark = f"{number}-{turn}".encode()
            async with served.client(f"/echo/{rng.randrange(5)}", first=frame(TEXT, mark)) as client:
                for again in range(rng.randrange(4)):
                    await client.send(frame(BINARY, mark + b"/%d" % again))
                assert await client.frame() == (TEXT, mark)
                if rng.random() < 0.3:
                    continue  # Leaves its answers behind.
                if rng.random() < 0.5:
                    await client.send(frame(PING, mark) + close_frame(4000, mark.decode()))
                    frames = []
                    while (got := await client.frame())[0] != 8:
                        frames.append(got)
                    assert got[1] == (4000).to_bytes(2) + mark
                    assert (PONG, mark) in frames
                    assert all(payload.startswith(mark) for _, payload in frames)

    async with serving(echo) as served:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, served, number)
        await soon(lambda: served.rooms.statistics().hub.sockets == 0)


EMFILE = """
import resource, sys, trio
from trio_rooms import open_rooms
from tests.integration.test_server import echo
import logging; logging.basicConfig(level=logging.INFO, stream=sys.stderr)
async def main():
    async with open_rooms([echo]) as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        print(address.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        nursery.cancel_scope.cancel()
trio.run(main)
"""


async def test_a_process_out_of_descriptors_accepts_again_when_it_has_some() -> None:
    """Without descriptors who comes gets 503, with one line in the log, and those inside are served."""
    with subprocess.Popen(
        [sys.executable, "-c", EMFILE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(one or "." for one in sys.path)},
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with trio.fail_after(30):
                await _starve(Served(Address("127.0.0.1", port)))
            _, errors = process.communicate("end\n", timeout=20)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == 0, errors
    assert errors.count("no connections are accepted for now") <= errors.count("accepted again") + 1
    assert "connections are accepted again" in errors
    assert "Traceback" not in errors


async def _starve(served: Served) -> None:
    async with contextlib.AsyncExitStack() as inside, contextlib.AsyncExitStack() as crowd:
        first = await inside.enter_async_context(served.client("/echo/x"))
        waiting = []
        for _ in range(60):
            client = await crowd.enter_async_context(served.connection())
            await client.send(request("/echo/x"))
            waiting.append(client)
        answers = [(await client.answer())[0] for client in waiting]
        assert answers == sorted(answers)
        assert 5 < answers.count(101) < 60
        assert answers.count(503) == 60 - answers.count(101)
        await works(first)
        await crowd.aclose()
        while (await served.ask(request("/healthz", Upgrade=None)))[0] == 503:
            await trio.sleep(0.01)  # It has not seen yet that they are gone.
        async with served.client("/echo/x") as late:
            await works(late)


async def test_a_sleeping_room_is_not_woken_by_who_comes_and_goes() -> None:
    """Without on_connect nothing but a message wakes a room."""
    async with serving(echo) as served:
        async with served.client("/echo/x") as client:
            await client.send(frame(PING, b"x"))
            assert await client.frame() == (PONG, b"x")
            info = served.rooms.get("echo", "x").info()
            assert (info.stage, info.connections) == (Stage.ASLEEP, 1)
        await soon(lambda: served.rooms.statistics().hub.rosters == 0)
        assert served.rooms.statistics().supervisor.wakes == 0
