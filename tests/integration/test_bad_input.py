"""What a client may do wrong, and what it and the others then see."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
import trio

from tests.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Client,
    Served,
    close_frame,
    frame,
    request,
    serving,
)
from trio_rooms import Context, Room

LIMIT = 100_000

echo: Room[None] = Room("echo")


@echo.on_message
async def on_echo(ctx: Context[None], message: str | bytes) -> None:
    """Send it back."""
    ctx.connection.send(message)


log = Room("log", state=list[Any])


@log.on_message
async def on_log(ctx: Context[list[Any]], message: str | bytes) -> None:
    """Write it down."""
    ctx.state.append(message)


events: Room[None] = Room("events")


@events.on("say")
async def on_say(ctx: Context[None], data: int) -> int:
    """Add one."""
    return data + 1


async def still_well(served: Served) -> None:
    """A new client is served."""
    async with served.client("/echo/other") as client:
        await client.send(frame(TEXT, b"well"))
        assert await client.frame() == (TEXT, b"well")


VIOLATIONS = {
    "unmasked": (frame(TEXT, b"hi", masked=False), 1002),
    "reserved bit 1": (frame(TEXT, b"hi", reserved=4), 1002),
    "reserved bit 2": (frame(TEXT, b"hi", reserved=2), 1002),
    "reserved bit 3": (frame(BINARY, b"hi", reserved=1), 1002),
    "reserved opcode of data": (frame(0x3, b"hi"), 1002),
    "reserved opcode of control": (frame(0xB), 1002),
    "length of 2 bytes for 5": (frame(TEXT, b"hello", length=b"\x7e\0\x05"), 1002),
    "length of 8 bytes for 300": (frame(TEXT, b"x" * 300, length=b"\x7f" + (300).to_bytes(8)), 1002),
    "length over 2**63": (frame(TEXT, b"", length=b"\x7f" + (1 << 63).to_bytes(8)), 1002),
    "fragmented ping": (frame(PING, b"hi", final=False), 1002),
    "ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"hi"), 1002),
    "message in a message": (frame(TEXT, b"a", final=False) + frame(TEXT, b"b"), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close with 1005": (close_frame(1005), 1002),
    "close with 1006": (close_frame(1006), 1002),
    "close with 999": (close_frame(999), 1002),
    "close with a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "text that is not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "surrogate in UTF-8": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "character cut at the end": (frame(TEXT, b"\xe2\x82"), 1007),
    "not UTF-8 in a second fragment": (
        frame(TEXT, b"good", final=False) + frame(CONTINUATION, b"\xff", final=False),
        1007,
    ),
    "too long by its header": (frame(BINARY, length=b"\x7f" + (LIMIT + 1).to_bytes(8)), 1009),
    "too long by its fragments": (
        frame(BINARY, b"x" * LIMIT, final=False) + frame(CONTINUATION, length=b"\x01"),
        1009,
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_is_answered_with_its_close_code(name: str) -> None:
    """What came before it is still handled, its close frame arrives, then the end and no reset."""
    wrong, code = VIOLATIONS[name]
    async with (
        serving(echo, log, max_message_size=LIMIT, close_timeout=3600) as served,
        served.client("/echo/x") as other,
    ):
        async with served.client("/log/x") as client:
            await client.send(frame(TEXT, b"before") + wrong + frame(TEXT, b"after"))
            got, reason = await client.closed()
            assert got == code
            assert reason
        room = served.rooms.get("log", "x")
        assert await room.hibernate()
        assert await room.peek() == ["before"]
        await other.send(frame(TEXT, b"still here"))
        assert await other.frame() == (TEXT, b"still here")


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_in_pieces_is_answered_the_same(name: str) -> None:
    """A violation that comes byte by byte has the same code."""
    wrong, code = VIOLATIONS[name]
    async with serving(echo, max_message_size=LIMIT) as served, served.client("/echo/x") as client:
        await client.send(wrong[:-5])
        for byte in wrong[-5:]:
            await client.send(bytes((byte,)))
        assert (await client.closed())[0] == code


async def test_one_byte_over_the_limit_is_too_much() -> None:
    """A message of just the limit is handled, a longer one is closed with 1009."""
    async with serving(echo, max_message_size=LIMIT) as served, served.client("/echo/x") as client:
        await client.send(frame(BINARY, b"x" * LIMIT))
        assert await client.frame() == (BINARY, b"x" * LIMIT)
        await client.send(frame(BINARY, b"x" * (LIMIT + 1)))
        assert (await client.closed())[0] == 1009


async def test_a_message_that_is_too_long_can_be_sent_to_its_end() -> None:
    """A client that reads only after it has sent all 8 MB of its message finds the close frame."""
    async with serving(echo, max_message_size=LIMIT) as served, served.client("/echo/x") as client:
        await client.send(frame(BINARY, b"x" * 8_000_000))
        assert (await client.closed())[0] == 1009


async def send_for_ever(client: Client) -> None:
    """Read nothing, and stop for nothing."""
    while True:
        await client.send(frame(BINARY, b"x" * 200_000))


async def test_who_never_stops_sending_is_cut_off() -> None:
    """After a violation a client has the close timeout to stop, and no more."""
    async with (
        serving(echo, max_message_size=LIMIT, close_timeout=0.2) as served,
        served.client("/echo/x") as client,
    ):
        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever(client)
        await still_well(served)


JUNK: dict[str, tuple[int, bytes]] = {
    "no JSON": (TEXT, b"nope"),
    "nothing": (TEXT, b""),
    "a list": (TEXT, b"[]"),
    "a number": (TEXT, b"7"),
    "no event": (TEXT, b'{"data": 1}'),
    "an event that is no string": (TEXT, b'{"event": 7}'),
    "an id that is no number": (TEXT, b'{"event": "say", "data": 1, "id": "x"}'),
    "an event that nobody knows": (TEXT, b'{"event": "sing", "data": 1}'),
    "data that does not fit": (TEXT, b'{"event": "say", "data": "one"}'),
    "NaN": (TEXT, b'{"event": "say", "data": NaN}'),
    "nested too deeply": (TEXT, b'{"event": "say", "data": ' + b"[" * 40_000 + b"]" * 40_000 + b"}"),
    "half a surrogate": (TEXT, rb'{"event": "say", "data": "\ud800"}'),
    "no CBOR": (BINARY, b"\xff\xff"),
    "nothing in binary": (BINARY, b""),
    "half a CBOR map": (BINARY, b"\xa2\x65event"),
    "CBOR and more": (BINARY, cbor2.dumps({"event": "say", "data": 1}) + b"\0"),
    "a CBOR tag": (BINARY, cbor2.dumps({"event": "say", "data": cbor2.CBORTag(30, [1, 0])})),
    "a CBOR list of 2**60": (BINARY, b"\x9b\x10" + b"\0" * 7),
    "deep CBOR": (BINARY, b"\x81" * 50_000 + b"\0"),
}


@pytest.mark.parametrize("name", JUNK)
async def test_a_message_that_makes_no_sense_is_an_error_to_its_sender(name: str) -> None:
    """The sender is told in the kind that it used, the connection stays, and nobody else hears of it."""
    opcode, payload = JUNK[name]
    async with (
        serving(events) as served,
        served.client("/events/x") as other,
        served.client("/events/x") as client,
    ):
        await client.send(frame(opcode, payload))
        kind, answer = await client.frame()
        assert kind == opcode
        decoded: Any = json.loads(answer) if kind == TEXT else cbor2.loads(answer)
        assert decoded["error"]["code"] in {"invalid_message", "unknown_event", "invalid_data"}, decoded
        await client.send(frame(TEXT, b'{"event": "say", "data": 1, "id": 1}'))
        assert json.loads((await client.frame())[1])["ack"] == 1
        await other.send(frame(PING, b"only this"))
        assert await other.frame() == (PONG, b"only this")


NOT_HTTP = {
    "garbage": b"\0\1\2\3 nonsense\r\n\r\n",
    "TLS": bytes.fromhex("16030100f8010000f40303") + b"\x55" * 240,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /echo/x\r\n\r\n",
    "a header without a name": b"GET /echo/x HTTP/1.1\r\n: x\r\n\r\n",
    "a header with a space": b"GET /echo/x HTTP/1.1\r\nHo st: x\r\n\r\n",
    "no host": b"GET /echo/x HTTP/1.1\r\n\r\n",
    "a frame at once": frame(TEXT, b"hello") + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", NOT_HTTP)
async def test_what_is_not_http_is_refused(name: str) -> None:
    """Anything but a request is refused, or ended where it could still become one, and the server goes on."""
    async with serving(echo, serve={"handshake_timeout": 1.0}) as served:
        async with served.connection() as client:
            await client.send(NOT_HTTP[name])
            got = await client.rest()
        assert got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ", b"HTTP/1.1 505 ")) or not got
        await still_well(served)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /echo/x HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 17_000 + b"\r\n\r\n",
        b"GET /echo/x HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1_000_000,
        b"GET /echo/x HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"x" * 20_000,
    ],
    ids=["one header", "without an end", "many headers", "target", "one line"],
)
async def test_a_head_over_16_kib_is_431(head: bytes) -> None:
    """A request's head has 16 KiB at most, whatever it is made of."""
    async with serving(echo) as served:
        status, _, body = await served.ask(head)
        assert status == 431
        assert body
        await still_well(served)


async def test_a_head_just_under_16_kib_is_taken() -> None:
    """Large cookies are no reason to refuse anybody."""
    async with serving(echo) as served, served.client("/echo/x", Cookie="x" * 16_000) as client:
        await client.send(frame(TEXT, b"hi"))
        assert await client.frame() == (TEXT, b"hi")


@pytest.mark.parametrize("said", [b"", b"G", b"GET /echo/x HTTP/1.1\r\nHost: x\r\n", request("/echo/x")[:-1]])
async def test_who_does_not_finish_its_request_is_closed(said: bytes) -> None:
    """Silence, or a request cut off anywhere, ends at the handshake timeout, and is told nothing."""
    async with serving(echo, serve={"handshake_timeout": 0.1}) as served, served.connection() as client:
        if said:
            await client.send(said)
        assert await client.rest() == b""
        await still_well(served)


async def test_a_request_in_single_bytes_is_a_request() -> None:
    """It does not matter in how many segments a handshake comes."""
    async with serving(echo) as served, served.connection() as client:
        for byte in request("/echo/x") + frame(TEXT, b"hi"):
            await client.send(bytes((byte,)))
        assert (await client.answer())[0] == 101
        assert await client.frame() == (TEXT, b"hi")
