"""From bytes to a request's head, and from a head to 101 or an answer in plain HTTP."""

from __future__ import annotations

import base64
import hashlib

import pytest
import trio
import trio.testing

from tests.raw import Client, request
from trio_rooms.handshake import HEAD_LIMIT, Answer, BadRequestError, Head, read_head, refusal_of, upgrade


async def head_of(*pieces: bytes) -> Head | None:
    """The head of what is sent in these pieces, then ended."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    head: Head | None = None

    async def read() -> None:
        nonlocal head
        head = await read_head(theirs)
        await theirs.aclose()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            try:
                for piece in pieces:
                    await ours.send_all(piece)
                await ours.send_eof()
            except trio.BrokenResourceError:
                pass  # It had enough.
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return head


async def test_a_head_is_read_to_its_end_and_not_further() -> None:
    """What comes behind the head is kept apart, byte for byte."""
    sent = request("/chat/lobby?x=1", Cookie="a=b")
    head = await head_of(sent + b"\x81\x80rest")
    assert head is not None
    assert (head.method, head.target, head.version) == ("GET", "/chat/lobby?x=1", "1.1")
    assert head.headers["cookie"] == "a=b"
    assert (head.raw, head.rest) == (sent, b"\x81\x80rest")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_a_head_may_come_in_any_pieces(size: int) -> None:
    """However it is cut, it is the same head."""
    sent = request("/chat/lobby") + b"\x81"
    head = await head_of(*(sent[at : at + size] for at in range(0, len(sent), size)))
    assert head is not None
    assert head.raw == sent[:-1]
    assert sent[len(head.raw) :].startswith(head.rest)


async def test_a_header_given_twice_is_a_list() -> None:
    """The values of one name are joined in their order."""
    head = await head_of(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
    assert head is not None
    assert head.headers["x-a"] == "1, 2"


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_who_ends_before_its_head_is_complete_has_asked_nothing(sent: bytes) -> None:
    """There is nobody left to answer."""
    assert await head_of(sent) is None


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * HEAD_LIMIT, 431),
        (b"x" * (HEAD_LIMIT + 1), 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * (HEAD_LIMIT - 20) + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_no_head_is_refused(sent: bytes, status: int) -> None:
    """What cannot be a request gets 400, what is too long 431."""
    with pytest.raises(BadRequestError) as caught:
        await head_of(sent)
    assert caught.value.answer.status == status


@pytest.mark.parametrize("spare", [0, 1])
async def test_the_limit_of_a_head_is_exact(spare: int) -> None:
    """A head may have 16 KiB, and not one byte more, whatever comes behind it."""
    start = b"GET / HTTP/1.1\r\nHost: x\r\nA: "
    sent = start + b"b" * (HEAD_LIMIT - len(start) - 4 + spare) + b"\r\n\r\n"
    if spare:
        with pytest.raises(BadRequestError):
            await head_of(sent)
    else:
        head = await head_of(sent, b"x" * 5000)
        assert head is not None
        assert len(head.raw) == HEAD_LIMIT


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/"), None),
        (request("/", Connection="keep-alive, Upgrade", Upgrade="WebSocket"), None),
        (request("/", "POST"), 405),
        (request("/", Upgrade=None), 426),
        (request("/", Connection=None), 400),
        (request("/", "GET", "1.0"), 400),
        (request("/", Sec_WebSocket_Version="7"), 426),
        (request("/", Sec_WebSocket_Version="13, 7"), 426),
        (request("/", Sec_WebSocket_Key=None), 400),
        (request("/", Sec_WebSocket_Key="é"), 400),
        (request("/", Sec_WebSocket_Key=base64.b64encode(b"x" * 15).decode()), 400),
    ],
)
async def test_what_is_no_good_handshake_is_refused(sent: bytes, status: int | None) -> None:
    """Each rule of RFC 6455, 4.2.1 has its answer."""
    head = await head_of(sent)
    assert head is not None
    refusal = refusal_of(head)
    assert (None if refusal is None else refusal.status) == status


@pytest.mark.parametrize("subprotocol", [None, "trio-rooms.v1.json"])
async def test_an_upgrade_answers_the_key(subprotocol: str | None) -> None:
    """The answer is 101 with the accept value of RFC 6455, 4.2.2, the subprotocol, and nothing behind it."""
    head = await head_of(request("/", Sec_WebSocket_Protocol="other, trio-rooms.v1.json"))
    assert head is not None
    assert head.subprotocols == ["other", "trio-rooms.v1.json"]
    ours, theirs = trio.testing.memory_stream_pair()
    assert await upgrade(theirs, head, subprotocol)
    await theirs.aclose()
    client = Client(ours)
    status, headers, _ = await client.answer(body=False)
    accept = hashlib.sha1(b"dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324
    assert status == 101
    assert headers["sec-websocket-accept"] == base64.b64encode(accept).decode()
    assert headers.get("sec-websocket-protocol") == subprotocol
    assert "sec-websocket-extensions" not in headers
    assert await client.rest() == b""


async def test_no_extension_is_accepted() -> None:
    """Compression that a client offers is not taken."""
    head = await head_of(request("/", Sec_WebSocket_Extensions="permessage-deflate"))
    assert head is not None
    ours, theirs = trio.testing.memory_stream_pair()
    assert await upgrade(theirs, head, None)
    _, headers, _ = await Client(ours).answer(body=False)
    assert "sec-websocket-extensions" not in headers


async def test_who_left_before_the_101_is_not_upgraded() -> None:
    """An answer that cannot be sent is no upgrade, and no error."""
    head = await head_of(request("/"))
    assert head is not None
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.aclose()
    assert not await upgrade(theirs, head, None)


async def test_an_upgrade_leaves_no_task_behind() -> None:
    """Nothing of trio-websocket runs on once a client is let in."""
    head = await head_of(request("/"))
    assert head is not None
    before = trio.lowlevel.current_statistics().tasks_living
    _, theirs = trio.testing.memory_stream_pair()
    assert await upgrade(theirs, head, None)
    assert trio.lowlevel.current_statistics().tasks_living == before


def test_an_answer_is_http() -> None:
    """An answer has its length, says that the connection ends, and can do without its body."""
    answer = Answer.text(503, "later", Retry_After="5")
    whole = answer.encode()
    assert whole.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 5\r\n" in whole
    assert b"\r\nContent-Length: 6\r\nConnection: close\r\n" in whole
    assert whole.endswith(b"\r\n\r\nlater\n")
    assert answer.encode(head_only=True) == whole[:-6]
    assert Answer(599).encode().startswith(b"HTTP/1.1 599 Refused\r\n")
