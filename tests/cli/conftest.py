"""What the tests of several commands use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import HTTPServer

import pytest

from tests.cli.asked import Asked


@pytest.fixture(scope="module")
def asked() -> Iterator[str]:
    """Where a server is that answers as `Asked` is told."""
    with HTTPServer(("127.0.0.1", 0), Asked) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def url(asked: str) -> str:
    """The same, and nobody has asked it anything yet."""
    Asked.seen.clear()
    return asked
