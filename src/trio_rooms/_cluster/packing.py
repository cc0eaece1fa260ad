"""What goes from node to node about a room, as plain data and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from trio_rooms._room.lifecycle import Stage
from trio_rooms._room.placement import RoomInfo
from trio_rooms._room.reasons import Reason, WhyAwake
from trio_rooms._room.schedules import Schedule, Unwanted, Wanted
from trio_rooms._sockets.fanout import Message
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.sent import Sent
from trio_rooms._state.codec import decode_value, encode_value
from trio_rooms._state.occurrences import Cron
from trio_rooms._state.plans import Change

__all__ = [
    "Frames",
    "pack_change",
    "pack_info",
    "pack_manner",
    "pack_message",
    "pack_schedules",
    "pack_sent",
    "pack_why",
    "unpack_change",
    "unpack_info",
    "unpack_manner",
    "unpack_schedules",
    "unpack_sent",
    "unpack_why",
]


@attrs.frozen
class Frames:
    """A `Message` that another node has encoded, in both kinds."""

    binary: bytes
    text: bytes

    def frame(self, *, binary: bool) -> bytes:
        """The encoded frame."""
        return self.binary if binary else self.text


def pack_message(message: Message) -> tuple[bytes, bytes | None]:
    """Its frames, the second for text, or None where they are the same.

    Raises:
        TypeError, ValueError: it cannot be encoded.
    """
    binary, text = message.frame(binary=True), message.frame(binary=False)
    return binary, None if text is binary else text


def pack_manner(manner: Manner | None) -> list[Any] | None:
    """How something is sent."""
    if manner is None:
        return None
    # Of what comes from outside of a room, the sender is None; see `manner_of`.
    key: Any = manner.key
    return [manner.volatile, None if key is None else key[1], manner.window]


def unpack_manner(packed: list[Any] | None) -> Manner | None:
    """The inverse of `pack_manner`."""
    if packed is None:
        return None
    volatile, coalesce, window = packed
    return Manner(volatile=volatile, key=None if coalesce is None else (None, coalesce), window=window)


def pack_sent(sent: Sent) -> list[int]:
    """What has become of something."""
    return [sent.active, sent.parked, sent.queued, sent.stored, sent.dropped, sent.outbox]


def unpack_sent(packed: list[int]) -> Sent:
    """The inverse of `pack_sent`."""
    return Sent(*packed)


def pack_change(change: Change) -> list[Any]:
    """What is to become of a room's schedules.

    Raises:
        TypeError: it is no change that comes from outside of the room.
    """
    if isinstance(change, Unwanted):
        return [change.name]
    if not isinstance(change, Wanted):
        msg = f"no change of schedules that goes to another node: {change!r:.100}"
        raise TypeError(msg)
    cron = None if change.cron is None else [change.cron.expression, change.cron.zone]
    return [change.name, change.data, change.asked, change.every, cron, change.missed]


def unpack_change(packed: list[Any]) -> Wanted | Unwanted:
    """The inverse of `pack_change`."""
    if len(packed) == 1:
        return Unwanted(packed[0])
    name, data, asked, every, cron, missed = packed
    rule = None if cron is None else Cron(*cron)
    return Wanted(name, data, None if asked is None else (asked[0], asked[1]), every, rule, missed)


def pack_schedules(schedules: Mapping[str, Schedule]) -> list[Any]:
    """What a room has scheduled."""
    return [{**attrs.asdict(one), "data": encode_value("", one.name, one.data)} for one in schedules.values()]


def unpack_schedules(packed: list[Any]) -> dict[str, Schedule]:
    """The inverse of `pack_schedules`."""
    return {one["name"]: Schedule(**{**one, "data": decode_value(one["data"])}) for one in packed}


def pack_info(info: RoomInfo) -> dict[str, Any]:
    """A room as it is now."""
    return {**attrs.asdict(info), "stage": info.stage.value}


def unpack_info(packed: dict[str, Any], node: str) -> RoomInfo:
    """The inverse of `pack_info`, at the node that says so."""
    channels, held = tuple(packed["channels"]), tuple(packed["held"])
    stage = Stage(packed["stage"])
    return RoomInfo(**{**packed, "stage": stage, "channels": channels, "held": held, "node": node})


def pack_why(why: WhyAwake) -> list[Any]:
    """Why a room is awake."""
    return [why.key, why.stage.value, [list(attrs.astuple(one)) for one in why.reasons]]


def unpack_why(packed: list[Any], node: str) -> WhyAwake:
    """The inverse of `pack_why`, at the node that says so."""
    key, stage, reasons = packed
    return WhyAwake(key, Stage(stage), tuple(Reason(*one) for one in reasons), node)
