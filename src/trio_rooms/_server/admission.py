"""Who is let into a room: what the application is asked, and what it says."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import attrs
import trio
import trio_websocket

from trio_rooms._arguments import text
from trio_rooms._definition.definition import Definition
from trio_rooms._loop.groups import alone, parted
from trio_rooms._room.connection import encode_attachment
from trio_rooms._room.placement import Elsewhere
from trio_rooms._sockets.flags import opening_flags
from trio_rooms._sockets.roster import Link
from trio_rooms._users.presence import encode_presence
from trio_rooms._wire.envelope import SUBPROTOCOLS
from trio_rooms._wire.handshake import offered_subprotocols
from trio_rooms.errors import AttachmentError, Refused

__all__ = [
    "Admission",
    "Admitted",
    "ConnectRequest",
    "admission",
    "authenticate",
    "beginning_elsewhere",
    "check_origins",
    "chosen_subprotocol",
    "headers_of",
    "parameters",
    "request_of",
]

logger = logging.getLogger("trio_rooms")

_LONGEST_SEQ: Final = 16
"""Digits of 2**53."""


@attrs.frozen
class ConnectRequest:
    """The request of a client that wants to connect, as `Room.authenticate` sees it."""

    room: str
    """The name of the room's definition."""
    id: str
    """Which room of that name."""
    path: str
    """The path as it was sent, without the query."""
    query: Mapping[str, str]
    """The query's parameters, decoded; of one given twice, the last."""
    headers: Mapping[str, str]
    """The headers by lower-case name; of one given twice, all joined by ``", "``."""
    remote: str
    """The address of the other side, as ``host:port``."""

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, in its order; one of them may be chosen."""
        return offered_subprotocols(self.headers)

    @property
    def key(self) -> str:
        """The room's key, ``"name/id"``."""
        return f"{self.room}/{self.id}"


@attrs.frozen
class Admitted:
    """What `Room.authenticate` may return instead of an attachment alone."""

    attachment: Any = None
    """What is known of the connection."""
    user: str | None = None
    """Who the client is. A session may be resumed by the same user only, whoever has its token."""
    presence: Mapping[str, Any] | None = None
    """What those in the room are shown of the connection, see `Connection.presence`. One that goes on with
    a session keeps what that has set."""


@attrs.frozen
class Admission:
    """A client that is let in."""

    attachment: bytes | None = None
    """What is known of its connection, in CBOR."""
    user: str | None = None
    presence: bytes = b""
    """What is shown of it, in CBOR."""
    token: str | None = None
    """What it wants to resume its session with, if it wants that."""
    seq: int = 0
    """The highest that it has, as it says."""


def admission(
    query: Mapping[str, str],
    attachment: bytes | None = None,
    user: str | None = None,
    presence: bytes = b"",
) -> Admission:
    """A client that is let in, and may want to go on with a session.

    Args:
        query: of its request; ``resume`` and ``seq`` are what it asks for.
        attachment: in CBOR.
        user: who it is.
        presence: what is shown of it, in CBOR.
    """
    seq = query.get("seq", "")
    # More digits than any seq has are no number that anybody was given.
    number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) <= _LONGEST_SEQ else 0
    return Admission(attachment, user, presence, query.get("resume"), number)


def parameters(query: str) -> dict[str, str]:
    """The parameters of a query, decoded; of one given twice, the last."""
    return dict(parse_qsl(query, keep_blank_values=True))


def request_of(request: trio_websocket.WebSocketRequest, name: str, id_: str) -> ConnectRequest:
    """What `Room.authenticate` is asked for a request of a trio-websocket server."""
    path, _, query = request.path.partition("?")
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in request.headers}
    if request.proposed_subprotocols:  # It has taken them out of the headers.
        headers["sec-websocket-protocol"] = ", ".join(request.proposed_subprotocols)
    remote = request.remote
    where = remote if isinstance(remote, str) else f"{remote.address}:{remote.port}"
    return ConnectRequest(name, id_, path, parameters(query), headers, where)


async def authenticate(definition: Definition, request: ConnectRequest) -> Admission:
    """Ask a room whether it lets a client in. A checkpoint.

    Raises:
        Refused: it does not; also where that came out of a nursery as a group of one.
        AttachmentError: what it returned cannot be an attachment.
        TypeError, ValueError: or no presence.
        Exception: the hook raised.
    """
    await trio.lowlevel.checkpoint()
    if definition.authenticate is None:
        return admission(request.query)
    try:
        attachment = await definition.authenticate(request)
    except BaseException as error:  # noqa: BLE001 (raised again, as one)
        raise _plainly(request.key, error)  # noqa: B904 (nearly always it is the same)
    user, presence = None, b""
    if isinstance(attachment, Admitted):
        admitted, attachment, user = attachment, attachment.attachment, attachment.user
        if user is not None:
            text("the user of Admitted", user)
        if admitted.presence is not None:
            presence = encode_presence(definition, admitted.presence)
    try:
        encoded = encode_attachment(request.key, attachment, definition.attachment_limit)
        return admission(request.query, encoded, user, presence)
    except AttachmentError as error:
        error.add_note("it is what @room.authenticate returned")
        raise


def _plainly(key: str, raised: BaseException) -> BaseException:
    """What the hook raised, as whoever called it can take it: a cancellation alone, or one exception."""
    passing, failed = parted(raised)
    if passing is not None:
        if failed is not None:
            logger.error("room %s: authenticate raised while it was cancelled", key, exc_info=failed)
        return passing
    error = alone(raised)
    if isinstance(error, Exception):
        return error
    defect = RuntimeError(f"room {key}: authenticate raised what is no exception: {type(error).__name__}")
    defect.__cause__ = error
    return defect


def headers_of(refused: Refused) -> dict[str, str]:
    """The headers of the response that refuses a client.

    A 401 names what would let it in (RFC 9110, 15.5.2).
    """
    headers = dict(refused.headers)
    if refused.status == 401 and "www-authenticate" not in map(str.lower, headers):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def check_origins(origins: Collection[str]) -> frozenset[str]:
    """The origins from which browsers may come.

    Raises:
        TypeError: they are no collection of strings.
        ValueError: no browser sends one of them, so that it could let nobody in.
    """
    if isinstance(origins, str):
        msg = f"origins is a list of values of the Origin header: write origins=[{origins!r}]"
        raise TypeError(msg)
    for origin in origins:
        text("an origin", origin)
        if origin not in _WITHOUT_HOST and (not _ORIGIN.fullmatch(origin) or _NEVER.search(origin)):
            msg = (
                f"no browser sends the origin {origin!r:.200}: an origin is like 'https://example.org' or "
                "'http://localhost:3000', in lower case, without a path or a slash at its end, without the "
                "scheme's own port, and there are no wildcards; origins=None lets in everybody"
            )
            raise ValueError(msg)
    return frozenset(origins)


_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._~-]+|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?")
"""What browsers send (RFC 6454, 6.2): names of other scripts as ``xn--``."""
_NEVER: Final = re.compile(r"^wss?:|^http:.*[^:]:80$|^https:.*[^:]:443$")
_WITHOUT_HOST: Final = ("null", "file://")
"""What pages without a host send: those in a sandbox, and in some apps those of a file."""


def beginning_elsewhere(
    elsewhere: Elsewhere, admission: Admission, *, enveloped: bool
) -> Callable[[Link], bool]:
    """What brings a connection to a room that is at home elsewhere."""
    return elsewhere.beginning(
        user=admission.user,
        attachment=admission.attachment,
        presence=admission.presence,
        enveloped=enveloped,
        token=admission.token,
        seq=admission.seq,
    )


def chosen_subprotocol(definition: Definition, offered: Iterable[str]) -> tuple[str | None, int]:
    """The first of the subprotocols that a client offers which its room has, and its connection's flags.

    A client none of whose subprotocols are known is let in without one; whether it stays is up to it
    (RFC 6455, 4.1).
    """
    known = definition.subprotocols
    for one in offered:
        if one in known:
            return one, opening_flags(known, one, binary=not definition.plain and SUBPROTOCOLS[one])
    return None, opening_flags(known, None, binary=False)
