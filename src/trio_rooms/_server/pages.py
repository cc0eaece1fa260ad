"""What is answered in plain HTTP on the port of the rooms."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from typing import Any, Final

import attrs

from trio_rooms._definition.definition import Definition
from trio_rooms._insight.insight import Insight
from trio_rooms._insight.recording import Busy
from trio_rooms._keys import split_key
from trio_rooms._room.placement import Placement, RoomInfo
from trio_rooms._values.plain import finite
from trio_rooms._wire.handshake import METHODS, Response
from trio_rooms.errors import UnknownRoom

from .admin import Errand
from .dashboard import DASHBOARD
from .paths import Paths

__all__ = ["Pages"]

_CLIENT: Final = files("trio_rooms").joinpath("js", "trio-rooms.js").read_bytes()
_RECORDING: Final = re.compile("/trace/([0-9a-f]{16})(/end)?")
_CLIENT_TAG: Final = f'"{hashlib.sha256(_CLIENT).hexdigest()[:32]}"'


class Pages:
    """Answers GET and HEAD for what is no room, and says to OPTIONS that it does.

    Args:
        definitions: the rooms that clients may know of, by name.
        paths: where rooms are.
        placement: reaches the rooms.
        statistics: what ``/stats`` shows.
        insight: what else is told of the rooms.
    """

    __slots__ = ("_definitions", "_insight", "_paths", "_placement", "_statistics")

    def __init__(
        self,
        definitions: Mapping[str, Definition],
        paths: Paths,
        placement: Placement,
        statistics: Callable[[], Any],
        insight: Insight,
    ) -> None:
        self._definitions = definitions
        self._paths = paths
        self._placement = placement
        self._statistics = statistics
        self._insight = insight

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], *, insider: bool = False
    ) -> Response | Errand | None:
        """What a request without a WebSocket is answered, what it asks for, or None where there is no page.

        Args:
            method: the request's.
            path: without a query.
            headers: the request's, by lower-case name.
            insider: whether who asks may see which rooms there are, and the dashboard.
        """
        if insider and method == "GET" and path.startswith("/trace"):
            recorded = self._recorded(path)
            if recorded is not None:
                return recorded
        accept = headers.get("accept", "")
        page: Response | Errand | None = None
        if method != "OPTIONS" or path != "*":
            page = self.page(path, accept, insider=insider) or self.of_room(path)
        if isinstance(page, Response) and _is_known(page, headers):
            page = Response(304, headers=page.headers, kind=page.kind)
        if method in ("GET", "HEAD") or (page is None and path != "*"):
            return page
        if method == "OPTIONS":
            return Response(200, headers={"Allow": METHODS})
        return Response.text(405, "a page is only read", Allow=METHODS)

    def page(self, path: str, accept: str = "", *, insider: bool = False) -> Response | None:
        """What is at a path that is no room's, or None.

        Args:
            path: without a query.
            accept: in which forms it is asked for, as the request's header says.
            insider: see `answer`.
        """
        if path == "/":
            return self._index()
        if path == "/healthz":
            return Response.text(200, "ok")
        if path == "/trio-rooms.js":
            return _client()
        if path == "/stats":
            return self._all(insider=insider)
        if path == "/report":
            return _json(self._insight.report(self._definitions))
        if path == "/metrics":
            return self._metrics(accept)
        if path == "/dashboard" and insider:
            return DASHBOARD
        return None

    def of_room(self, path: str) -> Response | Errand | None:
        """What is at the path of a page about one room, what is to be asked for it, or None."""
        if path.startswith("/stats/"):
            return self._room(path.removeprefix("/stats"))
        if path.startswith("/why/"):
            return self._why(path.removeprefix("/why"))
        return None

    def _index(self) -> Response:
        """The page of a room that has one, or where rooms are."""
        pages = (one.page for one in self._definitions.values() if one.page is not None)
        page = next(pages, None)
        if page is not None:
            return Response(200, page.encode(), kind="text/html; charset=utf-8")
        return Response.text(200, f"rooms at {self._paths.form}: {', '.join(sorted(self._definitions))}")

    def _all(self, *, insider: bool) -> Response:
        """What the statistics have, without the names of rooms that clients are not to know of.

        Which of the others are in use is told to insiders alone.
        """
        shown = attrs.asdict(self._statistics())
        doing = shown["supervisor"]
        doing["hanging"] = [one for one in doing["hanging"] if split_key(one["key"])[0] in self._definitions]
        shown["hibernation"] = self._insight.hibernation()
        shown["recommendations"] = self._insight.advice_for_clients(insider=insider)
        if insider:
            shown["costliest"] = self._insight.costliest()
        return _json(shown)

    def _recorded(self, path: str) -> Response | None:
        """A recording that begins, or more of one."""
        recordings = self._insight.recordings
        if path == "/trace":
            try:
                return _rows(recordings.begin())
            except Busy:
                return Response.text(503, "somebody records already", Retry_After="15")
        match = _RECORDING.fullmatch(path)
        if match is None:
            return None
        piece = recordings.fetch(match[1], ends=match[2] is not None)
        if piece is None:
            return Response.text(404, "there is no such recording: one ends when nobody fetches its rows")
        return _rows(piece)

    def _metrics(self, accept: str) -> Response:
        """All metrics, where the library is there that knows how Prometheus wants them."""
        try:
            from .prometheus import exposition  # noqa: PLC0415 (it costs whoever never asks nothing)
        except ImportError:
            return Response.text(
                501, "for /metrics install prometheus-client: pip install 'trio-rooms[prometheus]'"
            )
        return exposition(self._insight, self._statistics(), accept)

    # Asking for a room does not wake it, and one of another node is asked for there.

    def _room(self, path: str) -> Response | Errand:
        """The room at a path as it is now, or that there is none."""
        try:
            _, key = self._paths.room(path)
        except UnknownRoom as error:
            return Response.text(404, str(error))
        info = self._placement.info(key)
        return (
            _json(_told(info))
            if info.node is None
            else Errand(False, partial(self._room_elsewhere, key), True)
        )

    async def _room_elsewhere(self, key: str, _body: bytes) -> Response:
        return _json(_told(await self._placement.find_info(key)))

    def _why(self, path: str) -> Response | Errand:
        """What keeps the room at a path awake, or that there is none."""
        try:
            _, key = self._paths.room(path)
        except UnknownRoom as error:
            return Response.text(404, str(error))
        why = self._placement.why_awake(key)
        if why.node is None:
            return _json(self._insight.why(why))
        return Errand(False, partial(self._why_elsewhere, key), True)

    async def _why_elsewhere(self, key: str, _body: bytes) -> Response:
        return _json(self._insight.why(await self._placement.find_why_awake(key)))


def _told(info: RoomInfo) -> dict[str, Any]:
    """What is told of a room; of one of another node, which that is, too."""
    told = {"key": info.key, "stage": info.stage.value, "connections": info.connections}
    return told if info.node is None else {**told, "node": info.node}


def _client() -> Response:
    """The JavaScript client, which pages of other hosts may import, too."""
    headers = {
        "Cache-Control": "no-cache",  # Ask each time whether it is still this one: it is that of this server.
        "ETag": _CLIENT_TAG,
        "Access-Control-Allow-Origin": "*",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(200, _CLIENT, headers, kind="text/javascript; charset=utf-8")


def _is_known(page: Response, headers: Mapping[str, str]) -> bool:
    """Whether who asks for a page has it already (RFC 9110, 13.1.2)."""
    tag = page.headers.get("ETag")
    known = headers.get("if-none-match")
    if tag is None or known is None:
        return False
    return known.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in known.split(",")]


def _rows(items: bytes) -> Response:
    """Items of CBOR, one after the other (RFC 8742)."""
    return Response(200, items, {"Cache-Control": "no-store"}, kind="application/cbor-seq")


def _json(content: Any) -> Response:
    """An answer in JSON that nobody caches."""
    try:
        body = json.dumps(content, default=dict, allow_nan=False).encode()
    except ValueError:
        # A timeout may be infinite, and JSON has no such number: browsers would refuse all of it.
        body = json.dumps(finite(json.loads(json.dumps(content, default=dict)))).encode()
    return Response(200, body, {"Cache-Control": "no-store"}, kind="application/json")
