"""The content of an HTTP request, without I/O: how long it is, what it is, and what it is not."""

from __future__ import annotations

from typing import Final

import h11

from .handshake import HEAD_LIMIT, Head

__all__ = ["CONTINUE", "BadContentError", "ContentReader"]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""What a client gets that waits to be told to send its content (RFC 9110, 10.1.1)."""
_MOST_CHUNKS: Final = 16 * 1024
"""Chunks at most: each takes the time of kilobytes."""
_CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
"""A head behind which h11 reads chunks; the real one was read before."""


class BadContentError(Exception):
    """What came is no content, or more of it than is taken.

    Attributes:
        status: what its sender gets.
        text: the same in words.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class ContentReader:
    """Reads the content of one request, in whatever pieces it comes. What follows it is left out.

    Args:
        head: the request's, as h11 has read it: of a Content-Length it lets one number through, and of
            Transfer-Encoding nothing but ``chunked``.
        most: bytes that are taken; of more, no more is kept.

    Raises:
        BadContentError: there is too much of it (413), nobody could say where it ends (400), or who sends it
            expects what is not done here (415, 417).
    """

    __slots__ = ("_chunks", "_expected", "_length", "_most", "_parser", "_received")

    def __init__(self, head: Head, most: int) -> None:
        headers = head.headers
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", ""):
            raise BadContentError(415, f"a body is taken as it is, not in the coding {encoding[:100]!r}")
        expected = headers.get("expect", "").lower()
        if expected not in ("", "100-continue"):
            raise BadContentError(417, f"nothing is done about 'Expect: {expected[:100]}'")
        self._expected: bool = bool(expected) and head.version != "1.0"
        self._most: int = most
        self._received = bytearray()
        self._length: int = int(headers.get("content-length", "0"))
        self._parser: h11.Connection | None = None
        self._chunks: int = 0
        if "transfer-encoding" in headers:
            # Two who read such a request could find different ends of it (RFC 9112, 6.1).
            if "content-length" in headers or head.version == "1.0":
                raise BadContentError(
                    400, "a request has a Content-Length or, in HTTP/1.1, chunks, and not both"
                )
            self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
            self._parser.receive_data(_CHUNKED)
            self._parser.next_event()
        elif self._length > most:
            raise self._too_much()

    @property
    def waits(self) -> bool:
        """Whether the client waits for a `CONTINUE`, as far as can be told from what has come."""
        return self._expected and not self._received and not self._chunks

    def feed(self, data: bytes) -> bytes | None:
        """More bytes came; the content, as soon as it is complete.

        Raises:
            BadContentError: as above, or it is not in chunks as it was to be.
        """
        if self._parser is None:
            self._received += data
            return bytes(self._received[: self._length]) if len(self._received) >= self._length else None
        if not data:
            return None  # For h11 it would be the end.
        try:
            self._parser.receive_data(data)
            return self._unchunked(self._parser)
        except h11.RemoteProtocolError as error:
            raise BadContentError(400, f"the chunks of the body are malformed: {error}") from error

    def _unchunked(self, parser: h11.Connection) -> bytes | None:
        """What is in the chunks that have come, if they are all."""
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Data):
                self._received += event.data
                self._chunks += event.chunk_end
                if len(self._received) > self._most:
                    raise self._too_much()
                if self._chunks > _MOST_CHUNKS:
                    raise BadContentError(413, f"a body has at most {_MOST_CHUNKS} chunks")
            else:
                return bytes(self._received) if isinstance(event, h11.EndOfMessage) else None

    def end(self) -> BadContentError:
        """What is wrong where nothing more comes."""
        of = "its last chunk" if self._parser is not None else f"its {self._length} bytes"
        return BadContentError(400, f"the body ended after {len(self._received)} bytes, and before {of}")

    def _too_much(self) -> BadContentError:
        return BadContentError(413, f"a body has at most {self._most} bytes")
