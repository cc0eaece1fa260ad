"""The address of a room, taken apart for a connection."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlsplit

import attrs

from trio_rooms._arguments import text

__all__ = ["Address"]

_KEPT: Final = "%/:@!$&'()*+,;=~-._?"
"""What may stand in a path or a query as it is, percent-encoded bytes included (RFC 3986, 3.3 and 3.4)."""
_PORTS: Final = {False: 80, True: 443}


@attrs.frozen
class Address:
    """Where a room is, as its URL says."""

    url: str
    secure: bool
    host: str
    port: int
    path: str
    query: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Take a URL apart.

        Raises:
            TypeError: it is no string.
            ValueError: it is not the URL of a room.
        """
        parts = urlsplit(text("a room's URL", url))
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"a room's URL begins with ws://HOST or wss://HOST, not as {url!r:.200} does")
        if parts.username is not None or parts.fragment:
            raise ValueError(
                "a room's URL has no user and no fragment; who you are goes into token= or headers="
            )
        secure = parts.scheme == "wss"
        host = parts.hostname
        if not host.isascii():
            host = host.encode("idna").decode()
        return cls(
            url,
            secure,
            host,
            parts.port or _PORTS[secure],
            quote(parts.path, safe=_KEPT) or "/",
            quote(parts.query, safe=_KEPT),
        )

    @property
    def header(self) -> str:
        """What the header ``Host`` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.secure] else f"{host}:{self.port}"

    def target(self, token: str | None, seq: int) -> str:
        """What is requested: a new session, or with a token one that goes on after ``seq``."""
        resume = "" if token is None else f"resume={quote(token, safe='')}&seq={seq}"
        query = "&".join(part for part in (self.query, resume) if part)
        return f"{self.path}?{query}" if query else self.path
