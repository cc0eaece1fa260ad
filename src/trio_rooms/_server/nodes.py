"""What is told over HTTP of the nodes that share an engine, and asked of them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from trio_rooms._wire.handshake import Response

from .admin import Admin, Errand, problem

if TYPE_CHECKING:
    from trio_rooms._cluster.cluster import Cluster

__all__ = ["BY_HAND", "Nodes"]

BY_HAND: Final = "x-trio-rooms-drain"
"""The header of who has no token and asks from this machine; a page of another host cannot send it."""
_DRAIN: Final = re.compile("/nodes/([A-Za-z0-9._-]{1,64})/drain")
_FORWARDED: Final = re.compile("forwarded|via|x-forwarded-.*|x-real-ip|x-client-ip|true-client-ip|cf-.*")
"""Headers of what a proxy passes on: who asks is then not who has connected."""
_BROWSER: Final = re.compile("origin|sec-fetch-.*")
"""Headers that a browser adds, whatever its page wants."""


class Nodes:
    """Answers ``/nodes``, and passes on what is asked of one of them.

    Args:
        cluster: this node among the others.
        admin: knows the token, where there is one; it has to be shown then to ask for anything.
    """

    __slots__ = ("_admin", "_cluster")

    def __init__(self, cluster: Cluster, admin: Admin | None) -> None:
        self._cluster = cluster
        self._admin = admin

    @property
    def draining(self) -> bool:
        """Whether this node gives its rooms away, and takes nobody any more."""
        return self._cluster.draining

    def asked(
        self, method: str, path: str, headers: Mapping[str, str], remote: str
    ) -> Response | Errand | None:
        """What a request without a WebSocket asks for, what it is answered at once, or None: not for here.

        Args:
            method: the request's.
            path: without a query.
            headers: the request's, by lower-case name.
            remote: address and port that it comes from.
        """
        if path == "/healthz":
            if self.draining:
                return Response.text(503, "this node is being drained")
            if not self._cluster.seat.valid:
                return Response.text(503, "this node is out of touch with the others")
            return None
        if path == "/nodes":
            if method == "OPTIONS":
                return Response(200, headers={"Allow": "GET, HEAD, OPTIONS"})
            if method not in ("GET", "HEAD"):
                return problem(405, "the nodes are only read", Allow="GET, HEAD, OPTIONS")
            return Response.json(200, self._cluster.nodes())
        match = _DRAIN.fullmatch(path)
        if match is None:
            return None
        refused = self._refused(headers, remote)
        if refused is not None:
            return refused
        if method == "OPTIONS":
            return Response(200, headers={"Allow": "POST, OPTIONS"})
        if method != "POST":
            return problem(405, f"this is asked with POST, not {method[:20]}", Allow="POST, OPTIONS")
        return Errand(True, partial(self._drain, match[1]))

    def _refused(self, headers: Mapping[str, str], remote: str) -> Response | None:
        """Why somebody may not ask for anything, or None."""
        if self._admin is not None:
            return self._admin.refused(headers)
        by_hand = BY_HAND in headers and not any(
            _FORWARDED.fullmatch(name) or _BROWSER.fullmatch(name) for name in headers
        )
        if by_hand and _is_here(remote.rpartition(":")[0]):
            return None
        text = (
            "without --admin-token-file this is asked from the machine of the server alone, by "
            "trio-rooms drain, and by no page of a browser"
        )
        return problem(403, text)

    async def _drain(self, name: str, _body: bytes) -> Response:
        """Have a node give its rooms away."""
        if await self._cluster.ask_to_drain(name):
            return Response.json(200, {"node": name, "draining": True})
        return problem(404, f"there is no node {name} now; GET /nodes (trio-rooms nodes) lists them")


def _is_here(host: str) -> bool:
    """Whether an address is this machine's alone."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
