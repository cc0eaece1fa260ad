from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._wire.content import BadContentError, ContentReader
from trio_rooms._wire.handshake import Head, HeadReader

MOST = 1000


def head(*lines: str, version: str = "1.1") -> Head:
    """The head of a request, as a server reads it."""
    read = HeadReader().feed("\r\n".join([f"POST / HTTP/{version}", "Host: x", *lines, "", ""]).encode())
    assert read is not None
    return read


LENGTH = "Content-Length: "
CHUNKED = "Transfer-Encoding: chunked"


def in_chunks(parts: list[bytes]) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*(p for p in parts if p), b""])


@given(st.lists(st.binary(max_size=40), max_size=8), st.data(), st.booleans())
def test_a_body_is_read_in_whatever_pieces_it_comes(
    parts: list[bytes], data: st.DataObject, cut: bool
) -> None:
    """With a length or in chunks, and whatever comes behind it is not of it."""
    body = b"".join(parts)
    sent = in_chunks(parts) if cut else body
    reader = ContentReader(head(CHUNKED if cut else f"{LENGTH}{len(body)}"), MOST)
    places = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    pieces = [sent[start:end] for start, end in zip([0, *places], [*places, len(sent)], strict=True)]
    read = None
    for piece in pieces:
        assert read is None or not piece
        read = reader.feed(piece) if read is None else read
    assert read == body
    assert ContentReader(head(CHUNKED if cut else f"{LENGTH}{len(body)}"), MOST).feed(sent + b"GET /") == body


@pytest.mark.parametrize(
    ("lines", "sent", "status", "told"),
    [
        ([f"{LENGTH}1001"], b"", 413, "at most 1000 bytes"),
        ([f"{LENGTH}99999999999999999999"], b"", 413, "at most 1000 bytes"),
        ([CHUNKED], b"3e9\r\n" + b"x" * 1001, 413, "at most 1000 bytes"),
        ([CHUNKED], b"1\r\nx\r\n" * 1001, 413, "at most 1000 bytes"),
        ([CHUNKED, f"{LENGTH}3"], b"abc", 400, "not both"),
        ([CHUNKED], b"-3\r\nabc\r\n0\r\n\r\n", 400, "illegal chunk header"),
        ([CHUNKED], b"0x3\r\nabc\r\n0\r\n\r\n", 400, "illegal chunk header"),
        ([CHUNKED], b"3\r\nabcd\r\n0\r\n\r\n", 400, "malformed chunk footer"),
        ([CHUNKED], b"f" * 21 + b"\r\n", 400, "illegal chunk header"),
        ([CHUNKED], b"3;" + b"x" * 20000, 400, "too long"),
        ([CHUNKED], b"0\r\n" + b"X: y\r\n" * 4000, 400, "too long"),
        ([f"{LENGTH}3", "Content-Encoding: gzip"], b"abc", 415, "gzip"),
        ([f"{LENGTH}3", "Expect: more"], b"abc", 417, "Expect: more"),
    ],
)
def test_what_is_refused(lines: list[str], sent: bytes, status: int, told: str) -> None:
    """Too much, at once or as soon as it is; what two could read differently; what is not done here."""
    with pytest.raises(BadContentError) as raised:
        ContentReader(head(*lines), MOST).feed(sent)
    assert raised.value.status == status
    assert told in raised.value.text


def test_small_chunks_have_an_end() -> None:
    """Each takes time, so a body has not as many as it has bytes; a sender that writes lines stays below."""
    reader = ContentReader(head(CHUNKED), 1 << 20)
    assert reader.feed(b"1\r\nx\r\n" * 16_384) is None
    with pytest.raises(BadContentError, match="chunks"):
        reader.feed(b"1\r\nx\r\n")


def test_chunks_are_http_1_1() -> None:
    """Of HTTP/1.0 they are nothing that a proxy in between would know."""
    with pytest.raises(BadContentError):
        ContentReader(head(CHUNKED, version="1.0"), MOST)


def test_who_waits_to_be_told() -> None:
    """A client that expects to be told to send its body, until something of it has come."""
    expects = "Expect: 100-Continue"
    assert ContentReader(head(f"{LENGTH}3", expects), MOST).waits
    assert not ContentReader(head(f"{LENGTH}3", expects, version="1.0"), MOST).waits
    assert not ContentReader(head(f"{LENGTH}3"), MOST).waits
    reader = ContentReader(head(f"{LENGTH}3", expects), MOST)
    reader.feed(b"a")
    assert not reader.waits


@pytest.mark.parametrize(("line", "told"), [(f"{LENGTH}3", "its 3 bytes"), (CHUNKED, "its last chunk")])
def test_a_body_that_ends_early(line: str, told: str) -> None:
    """It is said how much was missing."""
    reader = ContentReader(head(line), MOST)
    assert reader.feed(b"2\r\na" if line is CHUNKED else b"a") is None
    assert told in reader.end().text
    assert "after 1 bytes" in reader.end().text
