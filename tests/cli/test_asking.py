"""Asking a server, for every command that does: what is taken of an answer, and what is said of it."""

from __future__ import annotations

import pytest

from tests.cli.asked import Asked
from trio_rooms._cli.asking import get, get_json, room_path
from trio_rooms._cli.failures import CommandFailed, UsageError


def test_what_is_asked(url: str) -> None:
    """The path below that of the URL, with the token where there is one."""
    Asked.answer = 200, b'{"a": [1]}'
    assert get_json(url, "/stats") == {"a": [1]}
    assert get(f"{url}/below/", "/why/a/b", token="t") == Asked.answer[1]
    assert Asked.seen == [("/stats", None, None), ("/below/why/a/b", "Bearer t", None)]


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
