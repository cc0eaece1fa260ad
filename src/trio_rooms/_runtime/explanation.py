"""What keeps an awake room awake, in words: read from its parts at the moment when somebody asks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Final

import trio

from trio_rooms._room.actor import Actor
from trio_rooms._room.lifecycle import Stage
from trio_rooms._room.reasons import Reason, WhyAwake

from .watch import called, name_of

__all__ = ["explain"]

_MOST_HOLDS: Final = 100
"""Holds that are told one by one; a program may have any number of them."""
_LONGEST_NAME: Final = 100
"""Characters of the name of a task, or of the reason of a hold."""


def explain(actor: Actor, since: float | None, busy_since: float | None, waiting: int = 0) -> WhyAwake:
    """Why a room is awake.

    Args:
        actor: the room.
        since: when it began what it handles now, on Trio's clock; None where that is not known.
        busy_since: when it began to be busy; it may have been at rest for a moment since. None where that is
            not known.
        waiting: how many rooms wait for their turn to wake, where it is one of them.
    """
    now, stage = trio.current_time(), actor.stage
    reasons = [*_under_way(actor, now, since, busy_since)]
    if stage is Stage.AWAKE:
        reasons += _held(actor, now)
        busy = bool(reasons)  # Then it is not quiet before that has ended. To save is no reason for that.
        reasons += _unsaved(actor, now)
        reasons += _in_use(actor, now, busy=busy)
    elif stage is Stage.WAKING:
        began = actor.idleness.quiet_since
        until = "it has its state, and its hooks have returned"
        if waiting:
            until = f"it has its turn, for which {waiting} rooms wait" if waiting > 1 else "it has its turn"
        reasons.append(Reason("waking", now - began, until))
    elif stage is Stage.RESTARTING:
        began = actor.idleness.quiet_since
        reasons.append(Reason("restarting", now - began, "it has begun anew, after a crash or a rollback"))
    elif stage is Stage.HIBERNATING:
        reasons += _unsaved(actor, now)
    return WhyAwake(actor.key, stage, tuple(reasons))


def _under_way(actor: Actor, now: float, since: float | None, busy_since: float | None) -> Iterator[Reason]:
    """What it handles, and what waits for that."""
    if actor.shared.hook is not None or actor.mailbox.current is not None:
        for_seconds = 0.0 if since is None else now - since
        yield Reason("handler", for_seconds, f"{called(name_of(actor))} returns")
    waiting = actor.mailbox.waiting
    if waiting:
        what = "the message that waits is" if waiting == 1 else f"the {waiting} messages that wait are"
        begun = _had_mail_since(actor, now, busy_since)
        yield Reason("mail", now - (begun if since is None else min(begun, since)), f"{what} handled")


def _had_mail_since(actor: Actor, now: float, busy_since: float | None) -> float:
    """When it began to have something to do, at the latest; it may have been quiet for long before that."""
    quiet_since = actor.idleness.quiet_since
    if actor.stage in (Stage.WAKING, Stage.RESTARTING):
        return quiet_since  # When that began, which was for the mail.
    if busy_since is None:  # What came has not been seen yet, or waits for what the room sleeps after.
        busy_since = actor.saver.record.in_flight
    return now if busy_since is None else max(busy_since, quiet_since)


def _held(actor: Actor, now: float) -> Iterator[Reason]:
    """Tasks and blocks that hold it."""
    holds = actor.idleness.holds or {}
    for (kind, name), hold in islice(holds.items(), _MOST_HOLDS):
        short = f"{name[:_LONGEST_NAME]!r}"
        noun, which = ("task", short) if kind == "task" else ("block", f"of keep_awake({short})")
        one = hold.count == 1
        until = f"the {noun} {which} ends" if one else f"the {hold.count} {noun}s {which} end"
        yield Reason(kind, now - hold.since, until)
    if len(holds) > _MOST_HOLDS:
        kind, _ = next(iter(holds))
        yield Reason(kind, 0.0, f"{len(holds) - _MOST_HOLDS} more tasks and blocks end")


def _unsaved(actor: Actor, now: float) -> Iterator[Reason]:
    """What is on its way to the store, or could not be written."""
    began, idleness = actor.saver.record.in_flight, actor.idleness
    if began is not None or (actor.stage is Stage.HIBERNATING and actor.shared.hook is None):
        yield Reason("commit", 0.0 if began is None else now - began, "the store has what is written now")
    elif now < idleness.not_before:
        again = _seconds(idleness.not_before - now)
        failing = now - actor.saver.failing_since
        yield Reason("save_failed", failing, f"the store takes its snapshot; tried again in {again}")


def _in_use(actor: Actor, now: float, *, busy: bool) -> Iterator[Reason]:
    """How long it was quiet, and how much came lately."""
    idleness, policy = actor.idleness, actor.shared.definition.policy
    quiet = now - idleness.quiet_since
    if idleness.timeout == math.inf:
        yield Reason("idle", quiet, "never: idle_timeout is inf")
        return
    left = idleness.timeout if busy else idleness.timeout - quiet
    if left > 0:
        until = f"{'then ' if busy else ''}{_seconds(left)} without a message"
        if idleness.reluctance > 1:
            times = f"{idleness.reluctance:g} times its idle_timeout"
            until += f" (it waits {times}, since it was woken just after it slept)"
        yield Reason("idle", 0.0 if busy else quiet, until)
    low = idleness.low_at(now)
    if low > now + max(left, 0):
        window = _seconds(policy.activity_window)
        until = f"fewer than {policy.message_threshold} messages in {window}"
        yield Reason("activity", max(-left, 0.0), f"{until}: in {_seconds(low - now)} at the earliest")


def _seconds(seconds: float) -> str:
    """A time, as short as it is of use."""
    return f"{seconds:.0f} s" if seconds >= 100 else f"{f'{seconds:.1f}'.removesuffix('.0')} s"
