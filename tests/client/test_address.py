"""The address of a room, taken apart."""

from __future__ import annotations

import pytest

from trio_rooms.client.address import Address


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("ws://localhost/chat/lobby", "localhost", "/chat/lobby"),
        ("ws://localhost:8000/chat/lobby", "localhost:8000", "/chat/lobby"),
        ("wss://localhost:443/chat/lobby", "localhost", "/chat/lobby"),
        ("ws://[::1]:8000/a/b", "[::1]:8000", "/a/b"),
        ("ws://localhost", "localhost", "/"),
        ("ws://localhost/chat/a b/c%2Fd?user=ana m&x", "localhost", "/chat/a%20b/c%2Fd?user=ana%20m&x"),
        ("ws://bücher.example/räume/1", "xn--bcher-kva.example", "/r%C3%A4ume/1"),
    ],
)
def test_a_request_is_made_of_it(url: str, host: str, target: str) -> None:
    """Host and target are as HTTP wants them; what was percent-encoded stays so."""
    address = Address.of(url)
    assert address.header == host
    assert address.target(None, 0) == target


def test_a_session_is_named_behind_the_rest() -> None:
    """The query is the application's, and gets two members more."""
    assert Address.of("ws://h/a/b").target("t+/=", 7) == "/a/b?resume=t%2B%2F%3D&seq=7"
    assert Address.of("ws://h/a/b?user=ana").target("t", 0) == "/a/b?user=ana&resume=t&seq=0"
    assert Address.of("wss://h/a/b").port == 443


@pytest.mark.parametrize(
    "url", ["http://h/a/b", "ws:///a", "h/a/b", "", "ws://u:p@h/a/b", "ws://h/a#b", "ws://h:x/"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """At once, and not at the connect."""
    with pytest.raises(ValueError):
        Address.of(url)
