"""The ledger example, as its clients see it, and its page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cbor2
import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.integration.conftest import TIMEOUT, Served

Serve = Callable[..., Served]


@contextmanager
def open_ledger(
    served: Served, protocol: str, query: str = ""
) -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    """A client, and the welcome that it got."""
    subprotocols = [Subprotocol(f"trio-rooms.v1.{protocol}")]
    with connect(f"{served.url}/ledger/x{query}", subprotocols=subprotocols) as client:
        welcome = receive(client)
        assert welcome["event"] == "rooms.welcome"
        yield client, welcome["data"]


def send(client: ClientConnection, **message: Any) -> None:
    """Send a message in the kind that the client has."""
    cbor = (client.subprotocol or "").endswith("cbor")
    client.send(cbor2.dumps(message) if cbor else json.dumps(message))


def receive(client: ClientConnection) -> Any:
    """The next message, whatever its kind."""
    message = client.recv(TIMEOUT)
    return json.loads(message) if isinstance(message, str) else cbor2.loads(message)


@pytest.mark.parametrize("protocol", ["json", "cbor"])
def test_everybody_hears_every_balance(serve: Serve, tmp_path: Path, protocol: str) -> None:
    """Each once, counted, with its place in the journal; who asked hears it before the answer."""
    served = serve("examples/ledger.py", "--data", tmp_path / "data")
    with (
        open_ledger(served, protocol) as (first, welcome),
        open_ledger(served, "json") as (second, _),
    ):
        assert welcome["durable"] is True
        assert welcome["resumed"] is False
        send(first, event="add", data={"amount": 5}, id=1)
        send(first, event="add", data={"amount": -2}, id=2)
        send(first, event="get", id=3)
        told = [receive(first) for _ in range(5)]
        seqs = [message.pop("seq") for message in (told[0], told[2])]
        assert seqs == sorted(set(seqs))
        assert told == [
            {"event": "balance", "data": {"balance": 5, "count": 1}},
            {"ack": 1, "data": {"balance": 5}},
            {"event": "balance", "data": {"balance": 3, "count": 2}},
            {"ack": 2, "data": {"balance": 3}},
            {"ack": 3, "data": {"balance": 3, "count": 2}},
        ]
        assert [receive(second)["data"] for _ in range(2)] == [told[0]["data"], told[2]["data"]]
        send(first, event="add", data={"amount": "much"}, id=4)
        assert receive(first)["error"]["code"] == "invalid_data"


def test_what_was_answered_outlives_a_kill(serve: Serve, tmp_path: Path) -> None:
    """At once; and its client goes on where it was, with what it has not heard."""
    served = serve("examples/ledger.py", "--data", tmp_path / "data")
    with open_ledger(served, "json") as (client, welcome):
        for number in range(1, 4):
            send(client, event="add", data={"amount": number}, id=number)
            while receive(client).get("ack") != number:
                pass
        served.process.kill()
        served.process.wait(TIMEOUT)
    served = serve("examples/ledger.py", "--data", tmp_path / "data")
    resume = f"?resume={welcome['resume']}&seq={welcome['seq']}"
    with open_ledger(served, "json", resume) as (client, again):
        assert again["resumed"] is True
        assert again["connection"] == welcome["connection"]
        balances = [receive(client)["data"] for _ in range(3)]
        assert balances == [{"balance": total, "count": n} for n, total in enumerate((1, 3, 6), 1)]
        # Message 3 again, as if its answer had been lost, and one more.
        send(client, event="add", data={"amount": 3}, id=3)
        assert receive(client) == {"ack": 3, "data": {"balance": 6}}
        send(client, event="add", data={"amount": 10}, id=4)
        assert receive(client)["data"] == {"balance": 16, "count": 4}
        assert receive(client) == {"ack": 4, "data": {"balance": 16}}
