"""When rooms and connections sleep."""

from __future__ import annotations

import math
from typing import Any, Final, Self

import attrs

from trio_rooms._arguments import number, whole

__all__ = ["OF_ROOMS", "Policy"]


def _number(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    number(field.name, value)


def _whole(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    whole(field.name, value, least=1)


def _whole_or_none(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        whole(field.name, value, least=1)


def _share(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not 0 <= number(field.name, value) <= 1:
        msg = f"{field.name} is a share from 0 to 1, such as 0.8, not {value!r}"
        raise ValueError(msg)


def _share_or_none(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        _share(_, field, value)


def _lag(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not number(field.name, value):
        msg = f"{field.name} is more than 0 seconds, since a loop is always late by something; None for any"
        raise ValueError(msg)


def _memory(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    """A share of the memory that there is, or bytes."""
    if value is None:
        return
    if not number(field.name, value) or (
        value > 1 and (isinstance(value, float) or not math.isfinite(value))
    ):
        msg = f"{field.name} is a share of the memory up to 1.0, such as 0.8, or a whole number of bytes"
        raise ValueError(f"{msg}, not {value!r}")


def _target(policy: Policy, field: attrs.Attribute[Any], value: Any) -> None:
    """What is no less than the limit would be reached and left at each message."""
    _memory(policy, field, value)
    limit = policy.memory_limit
    if value is not None and limit is not None and (value > 1) is (limit > 1) and value > limit:
        msg = f"{field.name} is no more than memory_limit ({limit!r}), not {value!r}"
        raise ValueError(msg)


@attrs.frozen(kw_only=True)
class Policy:
    """When rooms and connections sleep: by themselves, to keep a ratio or a number, and under pressure.

    The first four are about each room. A room may have them of its own: ``Room("chat", policy=...)``,
    or in short ``Room("chat", idle_timeout=5)``. The others are about all rooms together, and are given
    to `open_rooms`; without that, they are those of the rooms' policies, which then have to agree.

    Args:
        idle_timeout: seconds without mail after which a room may sleep; ``math.inf`` for never.
        message_threshold: a room sleeps only if it had fewer messages than this within
            ``activity_window``; and a connection that moves more than this does not hibernate.
        activity_window: seconds. One that is no longer than ``idle_timeout`` does not matter to rooms.
        connection_idle_timeout: seconds without a message of its client after which a connection
            hibernates: nothing of it is in memory then but its socket's record and its attachment's bytes.
        ratio: the share of all connections that is to be hibernated, from 0, for any, to 1. Where it
            is less, those that are least active are put to sleep.
        ratio_from: connections from which on the ratio is looked at.
        max_active: connections that may be active, before the least active ones are put to sleep; None
            for any number.
        max_awake: rooms that may be awake, before the least active ones are put to sleep; None for any.
        sweep: the share of what is active that is put to sleep at a time, and at least one.
        least_idle: seconds without a message that a connection or a room has to have before it is
            put to sleep for the ratio, or for ``max_active``.
        memory_limit: resident memory from which on rooms are put to sleep: a share of what the process may
            have (of its cgroup, or of the machine), up to 1.0; or bytes, a whole number. None for any.
        memory_target: what it is brought down to, given in the same way; None for 15/16 of the limit.
        memory_stall: the share of the last ten seconds for which something has waited for memory, as
            the kernel tells it, from which on rooms are put to sleep; None not to ask.
        max_lag: seconds that the event loop is late, again and again, from which on rooms are put to
            sleep; None for any.
        max_waking: rooms that may be about to wake at the same time; others wait for their turn.

    Raises:
        TypeError, ValueError: one of them is not what it should be.
    """

    idle_timeout: float = attrs.field(default=300.0, validator=_number)
    message_threshold: int = attrs.field(default=10, validator=_whole)
    activity_window: float = attrs.field(default=60.0, validator=_number)
    connection_idle_timeout: float = attrs.field(default=60.0, validator=_number)
    ratio: float = attrs.field(default=0.0, validator=_share)
    ratio_from: int = attrs.field(default=10, validator=_whole)
    max_active: int | None = attrs.field(default=None, validator=_whole_or_none)
    max_awake: int | None = attrs.field(default=None, validator=_whole_or_none)
    sweep: float = attrs.field(default=0.2, validator=_share)
    least_idle: float = attrs.field(default=1.0, validator=_number)
    memory_limit: float | None = attrs.field(default=0.80, validator=_memory)
    memory_target: float | None = attrs.field(default=None, validator=_target)
    memory_stall: float | None = attrs.field(default=0.2, validator=_share_or_none)
    max_lag: float | None = attrs.field(default=1.0, validator=_lag)
    max_waking: int = attrs.field(default=64, validator=_whole)

    @classmethod
    def classic(cls) -> Self:
        """What is common: rooms sleep after five minutes, four of five connections are to be hibernated."""
        return cls(
            idle_timeout=300.0,
            message_threshold=10,
            activity_window=60.0,
            ratio=0.8,
            max_active=1000,
            sweep=0.2,
        )

    def of_room(self, *, idle_timeout: float | None, connection_idle_timeout: float | None) -> Self:
        """The policy of a room that says in short what is different.

        Args:
            idle_timeout: seconds; the window in which its messages are counted is then no longer, so
                that a room of which nothing else is said sleeps after just so many. None for no difference.
            connection_idle_timeout: seconds; None for no difference.
        """
        changes: dict[str, Any] = {}
        if idle_timeout is not None:
            changes = {
                "idle_timeout": idle_timeout,
                "activity_window": min(self.activity_window, idle_timeout),
            }
        if connection_idle_timeout is not None:
            changes["connection_idle_timeout"] = connection_idle_timeout
        return attrs.evolve(self, **changes) if changes else self

    @property
    def of_all(self) -> dict[str, Any]:
        """What of it is about all rooms together, by name."""
        return {name: getattr(self, name) for name in _OF_ALL}


OF_ROOMS: Final = ("idle_timeout", "message_threshold", "activity_window", "connection_idle_timeout")
"""What of a policy is about each room."""
_OF_ALL: Final = tuple(one.name for one in attrs.fields(Policy) if one.name not in OF_ROOMS)
