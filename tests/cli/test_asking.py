"""Asking a server, for every command that does: what is taken of an answer, and what is said of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from trio_rooms._cli.asking import get, get_json, room_path
from trio_rooms._cli.failures import CommandFailed, UsageError


class Asked(BaseHTTPRequestHandler):
    """A server that notes what it is asked, and answers as it is told."""

    seen: ClassVar[list[tuple[str, str | None]]] = []
    answer: ClassVar[tuple[int, bytes]] = 200, b"{}"

    def do_GET(self) -> None:
        """Note it, and answer."""
        self.seen.append((self.path, self.headers["Authorization"]))
        status, body = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (what it is called there)
        """Say nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where it is."""
    with HTTPServer(("127.0.0.1", 0), Asked) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_asked(url: str) -> None:
    """The path below that of the URL, with the token where there is one."""
    Asked.seen.clear()
    Asked.answer = 200, b'{"a": [1]}'
    assert get_json(url, "/stats") == {"a": [1]}
    assert get(f"{url}/below/", "/why/a/b", token="t") == Asked.answer[1]
    assert Asked.seen == [("/stats", None), ("/below/why/a/b", "Bearer t")]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, b'{"error": "no \\u001b[31msuch"}'), "answers 404: no \\u001b[31msuch"),
        ((502, b"<p>bad\n gateway"), "answers 502: <p>bad gateway"),
        ((404, b"no such \xff\x1b[0m"), "no such \ufffd\\u001b[0m"),
        ((200, b"<html>"), "not that of a server of rooms: <html>"),
        ((200, b"[" * 100_000), "not that of a server of rooms: [["),
        ((200, b"x" * 200_000), "more than 150,000 bytes"),
    ],
)
def test_an_answer_that_cannot_be_used_is_told_in_one_line(
    url: str, answer: tuple[int, bytes], says: str
) -> None:
    """Whatever it has in it, the terminal is safe from it."""
    Asked.answer = answer
    with pytest.raises(CommandFailed) as caught:
        get_json(url, "/stats", longest=150_000)
    text = str(caught.value)
    assert says in text
    assert text.isprintable()
    assert len(text) < 700


def test_where_nobody_answers() -> None:
    """It is the server that is named."""
    with pytest.raises(CommandFailed, match=r"no answer from http://127.0.0.1:1: .*refused"):
        get("http://127.0.0.1:1", "/stats")
    for wrong in ("127.0.0.1:80", "ftp://x", "http://", "http://x:y", "http://a@x", "http://x?q"):
        with pytest.raises(UsageError, match="a server's URL is like"):
            get(wrong, "/stats")


def test_where_a_room_is() -> None:
    """Each part of its key is percent-encoded, slashes of the id as well."""
    assert room_path("chat/a b/é") == "/chat/a%20b%2F%C3%A9"
    for wrong in ("chat", "chat/", "/x", "", "chat/\udc80"):
        with pytest.raises(UsageError):
            room_path(wrong)
