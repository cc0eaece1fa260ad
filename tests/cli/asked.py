"""A server for the commands that ask one: it notes what it is asked, and answers as it is told."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

__all__ = ["Asked"]


class Asked(BaseHTTPRequestHandler):
    """One request."""

    seen: ClassVar[list[tuple[str, str | None, Any]]] = []
    """Of each: the path, the token as it was shown, and the content, if there was any."""
    answer: ClassVar[tuple[int, bytes]] = 200, b"{}"

    def do_GET(self) -> None:
        """Note it, and answer."""
        size = int(self.headers["Content-Length"] or 0)
        content = json.loads(self.rfile.read(size)) if size else None
        self.seen.append((self.path, self.headers["Authorization"], content))
        status, body = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """The same."""
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (what it is called there)
        """Say nothing."""
