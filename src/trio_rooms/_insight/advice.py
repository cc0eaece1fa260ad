"""What would let rooms sleep better: rules, what was measured, and what a change would bring.

Each rule looks at what was measured since the rooms were opened. Where it finds something, what the trace has
of the last while happens once more, under other settings; so nothing is guessed that can be tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from time import perf_counter
from typing import Any, Final

import attrs
import trio

from trio_rooms._keys import split_key
from trio_rooms._metrics.trace import APART, CAME, GONE, HERE, Stretch
from trio_rooms._policy.policy import Policy
from trio_rooms._runtime.runtime import Runtime
from trio_rooms._values.plain import finite

from .replay import LADDER, Outcome, Replay, best, percent

__all__ = ["Adviser", "Recommendation", "replayed"]

_FRESH: Final = 5.0
"""Seconds for which an answer is good enough for all who ask."""
_SHARE: Final = 1 / 500
"""Of the time, what asking again and again may take."""
_FEW: Final = 10
"""Connections, wakes or sleeps from which on something is said about them."""
_LOW: Final = 0.7
"""The share of connections hibernated below which it is asked what would be better."""
_SLOW: Final = 0.1
"""Seconds that a wake may take."""
_OFTEN: Final = 0.1
"""The share of sleeps that may end just after they began."""
_LESS: Final = 0.75
"""What is to be left of the awake rooms where memory is short."""
_LONG: Final = 60.0
"""Seconds that have to be known before anything is predicted."""
_HOUR: Final = 3600.0
_CONNECTIONS: Final = (10.0, 30.0)
"""Idle timeouts of connections that are tried, in seconds."""
_SHOWN: Final = 5
"""Rooms that are named."""
_SMALL: Final = 256 * 1024
"""Bytes that a snapshot may well have."""
_SWEPT: Final = ("ratio", "cap", "memory", "lag")
"""What puts rooms to sleep that would not sleep yet by themselves."""


@attrs.frozen
class Recommendation:
    """Something to change, with what speaks for it."""

    rule: str
    """Which of the rules found it: ``"hibernation_ratio"``, ``"wake_latency"``, ``"flapping"`` or
    ``"memory"``."""
    message: str
    """What to change, for people."""
    evidence: Mapping[str, Any]
    """What was measured, by name; plain values, as in JSON."""
    predicted: Mapping[str, Any]
    """What the change would bring, by name; empty where nothing is known of that."""


@attrs.frozen
class _Tried:
    """What the last while of a definition's rooms would have come to."""

    name: str
    stretch: Stretch
    seconds: float
    present: Outcome
    others: list[Outcome]

    def wakes(self, outcome: Outcome) -> float:
        """Wakes an hour, of all its rooms."""
        return round(outcome.added_wakes / self.stretch.share * _HOUR / self.seconds, 1)

    def rooms(self, outcome: Outcome) -> float:
        """Rooms awake, on the average."""
        return round(outcome.awake_rooms / self.stretch.share, 1)

    def told(self, outcome: Outcome) -> dict[str, Any]:
        """A setting, and what it comes to."""
        ratio, savings = outcome.hibernation_ratio, outcome.savings
        return {
            "idle_timeout": finite(outcome.policy.idle_timeout),
            "connection_idle_timeout": finite(outcome.policy.connection_idle_timeout),
            "hibernation_ratio": None if ratio is None else round(ratio, 4),
            "cost_savings": None if savings is None else round(savings, 4),
            "wakes_per_hour": self.wakes(outcome),
            "awake_rooms": self.rooms(outcome),
        }

    def change(self, outcome: Outcome) -> str:
        """What to set for it."""
        names = ("idle_timeout", "connection_idle_timeout")
        before, after = self.present.policy, outcome.policy
        return " and ".join(
            f"{name}={getattr(after, name):g} in place of {getattr(before, name):g}"
            for name in names
            if getattr(after, name) != getattr(before, name)
        )


class Adviser:
    """Finds what to recommend. What it finds is good for some seconds, so that it may be asked often.

    Args:
        runtime: open rooms.
    """

    __slots__ = ("_asked", "_found", "_runtime", "_until")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._asked = -math.inf
        self._until = -math.inf
        self._found: tuple[tuple[str, Recommendation], ...] = ()
        """With the definition that each is about; nothing where it is about all."""

    def recommendations(self) -> tuple[Recommendation, ...]:
        """What to change, the most important first."""
        return tuple(one for _, one in self._look())

    def for_clients(self, *, insider: bool) -> list[dict[str, Any]]:
        """The same as plain values, without rooms that clients are not to know of.

        Args:
            insider: whether it may be told which of the others are in use.
        """
        definitions = self._runtime.supervisor.definitions
        told = []
        for name, one in self._look():
            if name and not definitions[name].public:
                continue
            shown = attrs.asdict(one)
            rooms = shown["evidence"].pop("rooms", None)
            if insider and rooms is not None:
                shown["evidence"]["rooms"] = [
                    room for room in rooms if definitions[split_key(room["key"])[0]].public
                ]
            told.append(shown)
        return told

    def _look(self) -> tuple[tuple[str, Recommendation], ...]:
        """What was found, a few seconds ago at most."""
        now = trio.current_time()
        if not self._asked <= now < self._until:
            began = perf_counter()
            self._found = tuple(self._all(now))
            took = perf_counter() - began
            self._asked, self._until = now, now + max(_FRESH, took / _SHARE)
        return self._found

    def _all(self, now: float) -> Iterator[tuple[str, Recommendation]]:
        """What each rule finds."""
        tried: dict[str, _Tried | None] = {}

        def try_(name: str) -> _Tried | None:
            if name not in tried:
                tried[name] = self._try(name, now)
            return tried[name]

        # One thing is said of a definition's timeouts: a shorter one and a longer one help nobody.
        said: set[str] = set()
        for rule in (self._memory, self._flapping, self._ratio, self._wake_latency):
            for name, one in rule(try_):
                if name not in said:
                    yield name, one
                    said |= {name} - {""}

    def _try(self, name: str, now: float) -> _Tried | None:
        """Have the last while of a definition's rooms happen once more; None where too little is known."""
        hub, definition = self._runtime.hub, self._runtime.supervisor.definitions.get(name)
        stretch = hub.trace.stretch(name, now)
        seconds = now - stretch.begin
        if definition is None or seconds < _LONG:
            return None
        present = definition.policy
        change = partial(present.of_room, idle_timeout=None, connection_idle_timeout=None)
        timeouts = [one for one in LADDER if 2 * APART < one <= seconds / 2 and one != present.idle_timeout]
        others = [change(idle_timeout=one) for one in timeouts]
        others += [
            change(connection_idle_timeout=one)
            for one in _CONNECTIONS
            if one < present.connection_idle_timeout and one < present.idle_timeout
        ]
        outcomes = replayed(stretch, [present, *others], now)
        return _Tried(name, stretch, seconds, outcomes[0], outcomes[1:])

    def _busiest(self) -> list[str]:
        """The definitions of which something is known, those with most connections first."""
        trace = self._runtime.hub.trace
        return sorted(trace.definitions, key=trace.connections, reverse=True)

    # The rules.

    def _ratio(self, try_: Callable[[str], _Tried | None]) -> Iterator[tuple[str, Recommendation]]:
        """Few connections are hibernated: a shorter timeout."""
        hub = self._runtime.hub
        ratio = 1 - hub.activity.total / hub.sockets if hub.sockets else 1.0
        if ratio >= _LOW or hub.sockets < _FEW:
            return
        for name in self._busiest():
            if hub.trace.connections(name) < _FEW or (tried := try_(name)) is None:
                continue
            policy = tried.present.policy
            shorter = [one for one in tried.others if one.policy.idle_timeout < policy.idle_timeout]
            chosen = best(shorter, tried.present)
            if chosen is None or (chosen.hibernation_ratio or 0.0) < _LOW:
                # Rooms that are never silent have connections that are.
                shorter += [one for one in tried.others if one.policy.idle_timeout == policy.idle_timeout]
                chosen = best(shorter, tried.present)
            if chosen is None:
                continue
            before, after = tried.told(tried.present), tried.told(chosen)
            share, share_now = after["hibernation_ratio"], before["hibernation_ratio"]
            message = (
                f"room {name}: {percent(ratio)} of all connections are hibernated now; set "
                f"{tried.change(chosen)}, and {percent(share)} of this room's would be in place of "
                f"{percent(share_now)}, with {after['wakes_per_hour']:g} wakes an hour in place of "
                f"{before['wakes_per_hour']:g}"
            )
            evidence = {
                "room": name,
                "ratio": round(ratio, 4),
                "connections": hub.trace.connections(name),
                "seconds": round(tried.seconds, 1),
                **before,
            }
            yield name, Recommendation("hibernation_ratio", message, evidence, after)

    def _memory(self, try_: Callable[[str], _Tried | None]) -> Iterator[tuple[str, Recommendation]]:
        """More rooms are awake than memory carries: a shorter timeout."""
        supervisor, metrics = self._runtime.supervisor, self._runtime.hub.metrics
        slept = metrics.sleeps["memory"]
        if not slept:
            return
        evidence = {
            "sleeps": slept,
            "sweeps": metrics.sweeps["memory"],
            "awake_rooms": supervisor.awake,
            "memory_limit": supervisor.policy.memory_limit,
        }
        for name in self._busiest():
            tried = try_(name)
            if tried is None:
                continue
            most = _LESS * tried.present.awake_rooms
            fewer = [
                one
                for one in tried.others
                if one.policy.idle_timeout < tried.present.policy.idle_timeout and one.awake_rooms <= most
            ]
            if not fewer:
                continue
            chosen = max(fewer, key=lambda one: one.policy.idle_timeout)
            after = tried.told(chosen)
            message = (
                f"room {name}: {slept:,} rooms had to be put to sleep since memory was short; set "
                f"{tried.change(chosen)}, and {after['awake_rooms']:g} of this kind would be awake in place "
                f"of {tried.rooms(tried.present):g}; or give the process more memory"
            )
            yield name, Recommendation("memory", message, {"room": name, **evidence}, after)
            return
        message = (
            f"{slept:,} rooms had to be put to sleep since memory was short: keep less in the states of "
            "rooms and more in ctx.storage, or give the process more memory"
        )
        yield "", Recommendation("memory", message, evidence, {})

    def _flapping(self, try_: Callable[[str], _Tried | None]) -> Iterator[tuple[str, Recommendation]]:
        """Rooms wake just after they were put to sleep: a longer timeout."""
        metrics = self._runtime.hub.metrics
        swept = sum(metrics.sleeps[one] for one in _SWEPT)
        by_themselves = metrics.sleeps["idle"] + metrics.sleeps["low_activity"]
        if metrics.flaps < _FEW or metrics.flaps < _OFTEN * (swept + by_themselves):
            return
        evidence: dict[str, Any] = {"flaps": metrics.flaps, "sleeps": by_themselves, "swept": swept}
        often = f"{metrics.flaps:,} times a room woke just after it was put to sleep"
        if swept > by_themselves:
            why = max(_SWEPT, key=lambda one: metrics.sleeps[one])
            message = f"{often}, most of them by sweeps: {self._spares(why)}"
            yield "", Recommendation("flapping", message, evidence, {})
            return
        tried = [one for name in self._busiest() if (one := try_(name)) is not None]
        for one in sorted(tried, key=lambda one: one.wakes(one.present), reverse=True):
            longer = [
                other
                for other in one.others
                if other.policy.idle_timeout > one.present.policy.idle_timeout
                and other.added_wakes <= one.present.added_wakes / 2
            ]
            if not longer:
                continue
            chosen = min(longer, key=lambda other: other.policy.idle_timeout)
            after, before = one.told(chosen), one.told(one.present)
            message = (
                f"room {one.name}: {often}; set {one.change(chosen)}, and rooms would wake "
                f"{after['wakes_per_hour']:g} times an hour in place of {before['wakes_per_hour']:g}, with "
                f"{percent(after['hibernation_ratio'])} of the connections hibernated in place of "
                f"{percent(before['hibernation_ratio'])}"
            )
            evidence = {"room": one.name, **evidence, **before}
            yield one.name, Recommendation("flapping", message, evidence, after)
            return
        yield "", Recommendation("flapping", f"{often}: a longer idle_timeout spares that", evidence, {})

    def _spares(self, swept_for: str) -> str:
        """What has fewer rooms swept of those that will soon be used."""
        policy = self._runtime.supervisor.policy
        if swept_for == "memory":
            return (
                "memory was short, so a higher memory_limit, or less in the states of rooms, keeps more awake"
            )
        if swept_for == "lag":
            return "the event loop was late, so less work in handlers, or a larger max_lag, keeps more awake"
        if swept_for == "cap" and policy.max_awake is not None:
            higher = "max_awake" if policy.max_active is None else "max_awake or max_active"
            return f"a higher {higher} puts fewer to sleep"
        lower = "a lower hibernation ratio" if swept_for == "ratio" else "a higher max_active"
        return f"a larger least_idle spares those that will soon be used, and {lower} puts fewer to sleep"

    def _wake_latency(self, _: object) -> Iterator[tuple[str, Recommendation]]:
        """Wakes take long: what to keep out of the states of which rooms."""
        metrics = self._runtime.hub.metrics
        latency, waits = metrics.wake_latency.summary(), metrics.wake_waits.summary()
        if latency.count < _FEW or latency.p95 is None or latency.p95 <= _SLOW:
            return
        loads = self._runtime.supervisor.signs.large_loads[:_SHOWN]
        evidence: dict[str, Any] = {
            "count": latency.count,
            "p50": latency.p50,
            "p95": latency.p95,
            "p99": latency.p99,
            "max": latency.max,
            "waits": waits.count,
            "rooms": [attrs.asdict(one) | {"parts": dict(one.parts)} for one in loads],
        }
        slow, predicted = f"one of twenty wakes takes {1000 * latency.p95:,.0f} ms or more", {}
        if loads:
            worst = loads[0]
            message = (
                f"{slow}: the largest states are of {worst.bytes / 1000:,.0f} KB and take "
                f"{1000 * worst.seconds:,.0f} ms to load; keep in ctx.storage what is not needed at each wake"
            )
            # Without the largest part of its state; where nobody knows the parts, as large as it may be.
            left = worst.bytes - worst.parts[0][1] if worst.parts else min(_SMALL, worst.bytes)
            if 0 <= left < worst.bytes:
                predicted = {"bytes": left, "seconds": round(worst.seconds * left / worst.bytes, 4)}
        elif waits.count > latency.count * _OFTEN:
            most = self._runtime.supervisor.policy.max_waking
            message = f"{slow}: many wait for their turn, since {most} may wake at once; a larger max_waking"
            message += " lets more, and a longer idle_timeout has fewer wake"
        else:
            message = f"{slow}: no state is large, so look at on_wake, on_create and the disk of the store"
        yield "", Recommendation("wake_latency", message, evidence, predicted)


def replayed(stretch: Stretch, policies: list[Policy], now: float) -> list[Outcome]:
    """What a stretch of a trace would have come to under some policies.

    Args:
        stretch: what is known.
        policies: these.
        now: when it ends, on Trio's clock.
    """
    replay = Replay(policies, stretch.begin)
    for when, what, room, number in stretch.rows:
        connection = number or None
        if what == HERE:
            replay.came(when, room, number)
        elif what == GONE:
            replay.gone(when, room, number)
        elif what == CAME:
            replay.message(when, room, None)
            replay.came(when, room, number)
        else:
            replay.message(when, room, connection)
    return replay.outcomes(now, silent=stretch.silent)
