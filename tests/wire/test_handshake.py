"""From bytes to a request's head, and from a head to 101 or an answer in plain HTTP."""

from __future__ import annotations

import base64

import pytest
import wsproto
import wsproto.events
from hypothesis import example, given
from hypothesis import strategies as st

from tests.raw import request
from trio_rooms._wire.handshake import (
    HEAD_LIMIT,
    BadRequestError,
    Head,
    HeadReader,
    Response,
    accept,
    refusal_of,
)


def head_of(*pieces: bytes) -> Head | None:
    """The head of what comes in these pieces."""
    reader = HeadReader()
    head = None
    for piece in pieces:
        assert head is None
        head = reader.feed(piece)
    return head


def test_a_head_is_read_to_its_end_and_not_further() -> None:
    """What comes behind the head is kept apart, byte for byte."""
    sent = request("/chat/lobby?x=1", Cookie="a=b")
    head = head_of(sent + b"\x81\x80rest")
    assert head is not None
    assert (head.method, head.target, head.version) == ("GET", "/chat/lobby?x=1", "1.1")
    assert head.headers["cookie"] == "a=b"
    assert head.rest == b"\x81\x80rest"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_a_head_may_come_in_any_pieces(size: int) -> None:
    """However it is cut, it is the same head."""
    sent = request("/chat/lobby") + b"\x81"
    head = head_of(*(sent[at : at + size] for at in range(0, len(sent) - 1, size)))
    assert head is not None
    assert (head.target, head.headers["host"]) == ("/chat/lobby", "localhost")
    assert b"\x81".startswith(head.rest)


def test_a_header_given_twice_is_a_list() -> None:
    """The values of one name are joined in their order."""
    head = head_of(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
    assert head is not None
    assert head.headers["x-a"] == "1, 2"


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_what_is_no_whole_head_asks_nothing(sent: bytes) -> None:
    """There is nothing to answer yet."""
    assert head_of(sent) is None


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * HEAD_LIMIT, 431),
        (b"x" * (HEAD_LIMIT + 1), 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * (HEAD_LIMIT - 20) + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_head_is_refused(sent: bytes, status: int) -> None:
    """What cannot be a request gets 400, what is too long 431."""
    with pytest.raises(BadRequestError) as caught:
        head_of(sent)
    assert caught.value.response.status == status


@pytest.mark.parametrize("spare", [0, 1])
def test_the_limit_of_a_head_is_exact(spare: int) -> None:
    """A head may have 16 KiB, and not one byte more, whatever comes behind it."""
    start = b"GET / HTTP/1.1\r\nHost: x\r\nA: "
    sent = start + b"b" * (HEAD_LIMIT - len(start) - 4 + spare) + b"\r\n\r\n"
    if spare:
        with pytest.raises(BadRequestError):
            head_of(sent)
    else:
        head = head_of(sent + b"x" * 5000)
        assert head is not None
        assert len(head.rest) == 5000


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
        (request("/", Content_Length="0"), None),
        (request("/", Content_Length="00"), None),
        (request("/", Content_Length="10"), 400),
        (request("/", Content_Length="5, 5"), 400),
        (request("/", Transfer_Encoding="chunked"), 400),
        (request("/", "GET", "1.2"), 400),
        (request("/", "get"), 405),
        (request("/", "HEAD"), 426),
        (request("/", Sec_WebSocket_Key="é"), 400),
        (request("/", Sec_WebSocket_Key=base64.b64encode(b"x" * 15).decode()), 400),
    ],
)
def test_what_is_no_good_handshake_is_refused(sent: bytes, status: int | None) -> None:
    """Each rule of RFC 6455, 4.2.1 has its answer."""
    head = head_of(sent)
    assert head is not None
    refusal = refusal_of(head)
    assert (None if refusal is None else refusal.status) == status


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n", b"\n", b"\r"])
def test_empty_lines_before_a_request_are_none_of_it(before: bytes) -> None:
    """Some clients send one after a body (RFC 9112, 2.2); they may come alone."""
    sent = request("/chat/lobby")
    for pieces in ((before + sent,), (before, sent), (before[:1], before[1:] + sent[:1], sent[1:])):
        head = head_of(*pieces)
        assert head is not None
        assert (head.target, head.rest) == ("/chat/lobby", b"")


def test_every_426_says_what_to_upgrade_to() -> None:
    """As RFC 9110, 15.5.22 demands, whatever was wrong."""
    for sent in (request("/", Upgrade=None), request("/", Sec_WebSocket_Version="8")):
        head = head_of(sent)
        assert head is not None
        refusal = refusal_of(head)
        assert refusal is not None
        assert refusal.status == 426
        assert refusal.headers["Upgrade"] == "websocket"
        assert "Upgrade" in refusal.headers["Connection"]


@pytest.mark.parametrize("subprotocol", [None, "trio-rooms.v1.json"])
def test_an_upgrade_answers_the_key(subprotocol: str | None) -> None:
    """The answer is wsproto's: 101, the accept value of RFC 6455, 1.3, the subprotocol, and no extension."""
    sent = request(
        "/",
        Sec_WebSocket_Protocol="other, trio-rooms.v1.json",
        Sec_WebSocket_Extensions="permessage-deflate",
    )
    head = head_of(sent)
    assert head is not None
    assert head.subprotocols == ("other", "trio-rooms.v1.json")
    oracle = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    oracle.receive_data(sent)
    wanted = oracle.send(wsproto.events.AcceptConnection(subprotocol=subprotocol))
    answer = accept(head, subprotocol)
    assert answer.endswith(b"\r\n\r\n")
    assert sorted(answer.lower().splitlines()) == sorted(wanted.lower().splitlines())
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer


_odd = st.sampled_from(
    (
        *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\x7f", b"\xe9", b"GET ", b"\r\n\r\n"),
        *(b"Host: y\r\n", b"host:\r\n", b" folded\r\n", b"Content-Length: 0\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"X-A: 1\r\n", b"x-a:2\t \r\n"),
    )
)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 5), _odd), max_size=4))
@example([(0, 0, b"")])
def test_the_fast_way_says_what_h11_says(edits: list[tuple[int, int, bytes]]) -> None:
    """Whatever is odd about a head, read at once it is what h11 makes of it, piece by piece."""
    sent = request("/chat/lobby?x=%20", Cookie="a=b; c", Origin="http://x")
    for at, cut, odd in edits:
        sent = sent[:at] + odd + sent[at + cut :]
    assert _outcome(sent) == _outcome(sent[:1], sent[1:])


def _outcome(*pieces: bytes) -> Head | int | None:
    try:
        return head_of(*pieces)
    except BadRequestError as bad:
        return bad.response.status


def test_an_answer_is_http() -> None:
    """An answer has its length, says that the connection ends, and can do without its body."""
    response = Response.text(503, "later", Retry_After="5")
    whole = response.encode(784111777)
    assert whole.startswith(b"HTTP/1.1 503 Service Unavailable\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n")
    assert b"\r\nRetry-After: 5\r\n" in whole
    assert b"\r\nContent-Length: 6\r\nConnection: close\r\n" in whole
    assert whole.endswith(b"\r\n\r\nlater\n")
    assert response.encode(784111777, head_only=True) == whole[:-6]
    assert Response(599).encode(0).startswith(b"HTTP/1.1 599 Refused\r\n")
