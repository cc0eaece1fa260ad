"""What other processes ask for over HTTP: who may, what it is, and doing it."""

from __future__ import annotations

import hmac
import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes

import attrs
import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._keys import split_key
from trio_rooms._room.handles import Handles
from trio_rooms._room.reliably import is_reliable
from trio_rooms._sockets.sent import Sent
from trio_rooms._values.json_codec import decode
from trio_rooms._wire.handshake import Response
from trio_rooms.errors import RoomsError, UnknownRoom

from .paths import MalformedPath, Paths

__all__ = ["MOST_CONTENT", "SHORTEST_TOKEN", "Admin", "Errand", "check_token", "problem"]

logger = logging.getLogger("trio_rooms")

MOST_CONTENT: Final = 1024 * 1024
"""Bytes that the body of a request may have."""
SHORTEST_TOKEN: Final = 32
"""Characters of a token at least: as hexadecimal digits, 128 bits."""
_LONGEST_NAME: Final = 256
"""Characters that the name of an event or a channel may have, as in what clients send."""
_PATIENCE: Final = 30.0
"""Seconds until somebody is told that it is not known yet whether something could be written."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_USER: Final = re.compile(r"/users/([^/]+)(/send)?")
_PRIORITIES: Final = ("high", "normal", "low")


def problem(status: int, text: str, **headers: str) -> Response:
    """An answer that says what is wrong; header names with ``_`` for ``-``."""
    return Response.json(status, {"error": text}, **headers)


def check_token(what: str, token: Any) -> str:
    """A token that other processes can show. The errors leave out what was given: they are logged.

    Args:
        what: where it is from, for the error.
        token: what was given.

    Raises:
        TypeError: it is no string.
        ValueError: it is too short, or no header could carry it.
    """
    if not isinstance(token, str):
        msg = f"{what} is a string, not of type {type(token).__name__}"
        raise TypeError(msg)
    if len(token) < SHORTEST_TOKEN or not _TOKEN.fullmatch(token):
        msg = (
            f"{what} is no token: one has {SHORTEST_TOKEN} characters or more, all of them printable ASCII "
            "and none of them a space; secrets.token_urlsafe() makes one"
        )
        raise ValueError(msg)
    return token


class _BadBody(Exception):
    """The body of a request is not what it should be; the text says why, and what it should be."""


@attrs.frozen
class Errand:
    """What a request asks for that takes a while."""

    reads: bool
    """Whether there is a body to be read first."""
    _carry_out: Callable[[bytes], Awaitable[Response]]
    anybody: bool = False
    """Whether it is for everybody, so that it must not keep out who has shown a token."""

    async def carry_out(self, body: bytes) -> Response:
        """Do it; what becomes of it is the answer, whatever happens.

        A cancelled caller stops waiting; what was sent is sent.
        """
        answer = problem(504, f"it is not known after {_PATIENCE:g} s; it may still be done")
        with trio.move_on_after(_PATIENCE):
            try:
                answer = await self._carry_out(body)
            except MalformedPath as error:
                answer = problem(400, str(error))
            except UnknownRoom as error:
                answer = problem(404, str(error))
            except (_BadBody, ValueError) as error:
                answer = problem(400, str(error))
            except RoomsError as error:
                answer = problem(503, str(error), Retry_After="5")
            except Exception:
                logger.exception("a request over HTTP failed")
                answer = problem(500, "it failed; the log of the server says why")
        return answer


class Admin:
    """The HTTP interface for other processes.

    Args:
        token: what they have to show.
        definitions: all rooms, also those that clients may not know of, by name.
        handles: reaches them and their users.

    Raises:
        TypeError: the token is no string.
        ValueError: it is too short, or no header could carry it.
    """

    __slots__ = ("_emits", "_handles", "_rooms", "_token")

    def __init__(self, token: str, definitions: Mapping[str, Definition], handles: Handles) -> None:
        check_token("admin_token", token)
        self._token: bytes = token.encode("ascii")
        self._handles = handles
        self._rooms = Paths(definitions, "/rooms", "/{room}/{id}")
        self._emits = Paths(definitions, "/rooms", "/{room}/{id}/emit")

    def asked(self, method: str, path: str, headers: Mapping[str, str]) -> Response | Errand | None:
        """What a request without a WebSocket asks for, what it is answered at once, or None: not for here.

        Args:
            method: the request's.
            path: without a query.
            headers: the request's, by lower-case name.
        """
        allowed: tuple[str, ...]
        carry_out: Callable[[bytes], Awaitable[Response]]
        if self._emits.fits(path):
            allowed, carry_out = ("POST",), partial(self._emit, path)
        elif self._rooms.fits(path):
            allowed, carry_out = ("GET", "HEAD"), partial(self._room, path)
        elif match := _USER.fullmatch(path):
            if match[2]:
                allowed, carry_out = ("POST",), partial(self._send, match[1])
            else:
                allowed, carry_out = ("GET", "HEAD"), partial(self._user, match[1])
        else:
            return None
        refused = self.refused(headers)
        if refused is not None:
            return refused
        allow = ", ".join([*allowed, "OPTIONS"])
        if method == "OPTIONS":
            return Response(200, headers={"Allow": allow})
        if method not in allowed:
            return problem(405, f"this is asked with {' or '.join(allowed)}, not {method[:20]}", Allow=allow)
        return Errand("POST" in allowed, carry_out)

    def refused(self, headers: Mapping[str, str]) -> Response | None:
        """What a request is answered that does not show the token, or None where it does.

        Args:
            headers: the request's, by lower-case name.
        """
        if self.knows(headers):
            return None
        text = "this takes 'Authorization: Bearer TOKEN', with the token that the server was given"
        return problem(401, text, WWW_Authenticate="Bearer")

    def knows(self, headers: Mapping[str, str]) -> bool:
        """Whether a request shows the token, found in a time that does not tell how much of it is right.

        Args:
            headers: the request's, by lower-case name.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip(" ").encode(), self._token)

    async def _emit(self, path: str, body: bytes) -> Response:
        """Send an event to all connections of a room, or of a channel."""
        definition, key = self._emits.room(path)
        if definition.plain:
            _refuse(f"room {definition.name} is plain: it has no events")
        members = _members(body, ("event", "data", "channel", "reliable", "volatile"))
        event, data = _event(members), members.get("data")
        channel = _name(members, "channel")
        reliable, volatile = _flag(members, "reliable"), bool(_flag(members, "volatile"))
        handle = self._handles.get(*split_key(key))
        if not volatile and is_reliable(definition, reliable):
            return _counts(await handle.emit_durably(event, data, channel=channel))
        return _counts(
            await handle.emit_counted(event, data, channel=channel, reliable=reliable, volatile=volatile)
        )

    async def _send(self, quoted: str, body: bytes) -> Response:
        """Send an event to a user, wherever she is."""
        user = self._handles.user(_unquoted(quoted))
        members = _members(body, ("event", "data", "priority", "ttl", "volatile"))
        event, data = _event(members), members.get("data")
        options: dict[str, Any] = {"volatile": bool(_flag(members, "volatile"))}
        priority, ttl = members.get("priority"), members.get("ttl")
        if priority is not None:
            if priority not in _PRIORITIES:
                _refuse(f"'priority' is one of {', '.join(map(repr, _PRIORITIES))}, not {priority!r:.100}")
            options["priority"] = priority
        if ttl is not None:
            if type(ttl) not in (int, float) or not 0 < ttl < math.inf:
                _refuse(f"'ttl' is a number of seconds, more than 0, not {ttl!r:.100}")
            options["ttl"] = ttl
        return _counts(await user.send(event, data, **options))

    async def _room(self, path: str, _body: bytes) -> Response:
        """A room as it is now; wakes nobody."""
        _, key = self._rooms.room(path)
        handle = self._handles.get(*split_key(key))
        users = await handle.users()
        info = await handle.find_info()
        shown = {
            "key": key,
            "stage": info.stage.value,
            "connections": info.connections,
            "users": list(users),
        }
        return Response.json(200, shown)

    async def _user(self, quoted: str, _body: bytes) -> Response:
        """Where a user is, and how much waits for her."""
        user = self._handles.user(_unquoted(quoted))
        waiting = await user.waiting()
        where = await user.where()
        shown = {
            "user": user.name,
            "connections": where.connections,
            "rooms": list(where.rooms),
            "waiting": waiting,
        }
        return Response.json(200, shown)


def _unquoted(quoted: str) -> str:
    """What stands percent-encoded in a path.

    Raises:
        MalformedPath: it is no UTF-8.
    """
    try:
        return unquote_to_bytes(quoted).decode()
    except UnicodeDecodeError as error:
        msg = "a user's path is percent-encoded UTF-8"
        raise MalformedPath(msg) from error


def _members(body: bytes, known: tuple[str, ...]) -> dict[str, Any]:
    """The members of the map that a body is.

    Raises:
        _BadBody: it is none, or one with other members than these.
    """
    form = f"a body is a JSON map with 'event' and, where wanted, {', '.join(map(repr, known[1:]))}"
    if not body:
        _refuse(f"the body is empty; {form}")
    try:
        content = decode(body.decode())
    except UnicodeDecodeError:
        _refuse(f"the body is not UTF-8; {form}")
    except ValueError as error:
        _refuse(f"{error}; {form}")
    if type(content) is not dict:
        _refuse(f"the body is JSON, but no map; {form}")
    strange = [name for name in content if name not in known]
    if strange:
        # A name that is misspelt would change what becomes of it without a word.
        _refuse(f"nobody knows what {strange[0]!r:.100} is; {form}")
    return content


def _event(members: Mapping[str, Any]) -> str:
    """The name of an event, which must be there."""
    event = _name(members, "event")
    if not event:
        _refuse(f"'event' is missing or empty: it is a string of 1 to {_LONGEST_NAME} characters")
    return event


def _name(members: Mapping[str, Any], what: str) -> str | None:
    """A name that may be there."""
    name = members.get(what)
    if name is not None and (type(name) is not str or len(name) > _LONGEST_NAME):
        _refuse(f"{what!r} is a string of at most {_LONGEST_NAME} characters, not {name!r:.100}")
    return name


def _flag(members: Mapping[str, Any], what: str) -> bool | None:
    """Something that is or is not, or is not said."""
    flag = members.get(what)
    if flag is not None and type(flag) is not bool:
        _refuse(f"{what!r} is true or false, not {flag!r:.100}")
    return flag


def _refuse(text: str) -> NoReturn:
    raise _BadBody(text)


def _counts(sent: Sent) -> Response:
    """What has become of something that was sent."""
    counts = attrs.asdict(sent)
    del counts["outbox"]  # That is for handlers alone.
    return Response.json(200, counts)
