"""What is promised of hibernation, beside what was measured on this server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from trio_rooms._definition.definition import Definition
from trio_rooms._metrics.histogram import Summary
from trio_rooms._policy.policy import OF_ROOMS, Policy
from trio_rooms._runtime.restarts import COOL_DOWN, CRASH_WINDOW, MOST_CRASHES
from trio_rooms._values.plain import finite

from .metrics import RoomsMetrics
from .replay import SAVED

__all__ = ["Report"]

_WAKE: Final = 100.0
"""Milliseconds in which a room is awake, as for all that follow, in 99 of 100 cases."""
_SLEEP: Final = 100.0
"""In which it sleeps, once that is decided."""
_RESTORATION: Final = 20.0
"""In which its state is read and decoded."""
_DELAY: Final = 10.0
"""Which a message takes longer to a hibernated connection than to an active one."""
_RESTORED: Final = 0.999
"""The share of clients that come back which go on with their sessions."""
_DIGITS: Final = 6
"""Of a share, behind the point: enough to see one connection of many."""
_GENERATIONS: Final = 2
"""Snapshots of a room that a store keeps."""


class Report:
    """One document, made anew each time: each leaf has ``declared`` and ``measured``.

    What was not seen yet is None, and so is whether it holds.

    Args:
        definitions: the rooms that it tells of by name.
        policy: what holds for all rooms together.
        store: what the rooms are kept in, by name.
        told: what was measured.
    """

    __slots__ = ("_definitions", "_policy", "_store", "_told")

    def __init__(
        self, definitions: Mapping[str, Definition], policy: Policy, store: str, told: RoomsMetrics
    ) -> None:
        self._definitions = definitions
        self._policy = policy
        self._store = store
        self._told = told

    def content(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "hibernation_strategy": self._strategy(),
            "cost_optimization": self._costs(),
            "performance_characteristics": self._performance(),
            "reliability": self._reliability(),
            "verdicts": self._verdicts(),
        }

    # The four parts.

    def _strategy(self) -> dict[str, Any]:
        told = self._told
        rooms = {
            name: {value: finite(getattr(one.policy, value)) for value in OF_ROOMS}
            for name, one in self._definitions.items()
        }
        together = {name: finite(value) for name, value in self._policy.of_all.items()}
        return {
            "trigger_conditions": _leaf({"rooms": rooms, "together": together}, _seen(told.sleeps)),
            "hibernation_ratio_target": _leaf(
                told.ratio_target, round(told.ratio, _DIGITS) if told.connections.total else None
            ),
            "wake_conditions": _leaf(
                {name: _wakes(one) for name, one in self._definitions.items()}, _seen(told.wakes)
            ),
        }

    def _costs(self) -> dict[str, Any]:
        told, written = self._told, self._told.snapshots
        sleep, wake = told.hibernation_latency_seconds.mean, told.wake_latency_seconds.mean
        overhead = None if sleep is None or wake is None else _milliseconds(sleep + wake)
        costs = (
            "one snapshot as a room falls asleep after a change, and one in a snapshot_interval of changes"
        )
        return {
            "expected_savings": _leaf(SAVED, self._savings()),
            "hibernation_overhead_ms": _leaf(_SLEEP + _WAKE, overhead),
            "state_persistence_cost": _leaf(
                costs,
                {
                    "snapshots": written.bytes.count,
                    "mean_bytes": round(written.bytes.mean or 0),
                    "mean_ms": _milliseconds(written.seconds.mean),
                }
                if written.bytes.count
                else None,
            ),
            "resource_reduction": _leaf(round(told.cost_savings, _DIGITS), self._reduction()),
        }

    def _performance(self) -> dict[str, Any]:
        told = self._told
        return {
            "hibernation_latency_ms": _leaf(_SLEEP, _slow(told.hibernation_latency_seconds)),
            "wake_latency_ms": _leaf(_WAKE, _slow(told.wake_latency_seconds)),
            "state_restoration_ms": _leaf(_RESTORATION, _slow(told.state_restoration_seconds)),
            "message_delivery_delay_ms": _leaf(_DELAY, self._delay()),
        }

    def _reliability(self) -> dict[str, Any]:
        told, rooms = self._told, self._definitions
        kept = {
            "store": self._store,
            "generations": _GENERATIONS,
            "rooms": {
                name: {
                    "durability": "commit" if one.gated else "snapshot",
                    "snapshot_interval": finite(one.snapshot_interval),
                }
                for name, one in rooms.items()
            },
        }
        restored = told.state_restoration_seconds.count
        saved = {"saved": told.snapshots.bytes.count, "restored": restored, "lost": dict(told.lost)}
        promised = {
            "reliable": "once each, in order, for as long as the session lives",
            "ordinary": "once each, in order, for as long as the connection holds",
            "volatile": "at most once",
        }
        messages = {
            "lost": told.lost["message"],
            "dropped": {
                "volatile": told.drops.volatile,
                "relays": told.drops.relays,
                "users": told.drops.users,
            },
            "unacknowledged_bytes": told.journal_bytes,
        }
        failover = (
            "a room that crashes is loaded from what is saved after 0.1 s, doubled with each crash; after "
            f"{MOST_CRASHES} within {CRASH_WINDOW:.0f} s it is closed for {COOL_DOWN:.0f} s"
        )
        sent = told.delivery_delay_seconds
        return {
            "state_persistence": _leaf(kept, saved if saved["saved"] or restored else None),
            "connection_recovery": _leaf(
                {
                    "sockets": "stay open while their rooms sleep, wake, or are started again",
                    "resume_window": {name: finite(one.resume_window) for name, one in rooms.items()},
                },
                _seen(told.resumes),
            ),
            "message_guarantees": _leaf(
                promised, messages if sent.active.count or sent.hibernated.count or _any(messages) else None
            ),
            "failover_mechanism": _leaf(failover, {"crashes": told.restarts} if told.restarts else None),
        }

    # The verdicts.

    def _verdicts(self) -> list[dict[str, Any]]:
        wake = _slow(self._told.wake_latency_seconds)
        return [
            _verdict(
                "savings >= 90 % of an idle connection's memory",
                self._savings(),
                lambda share: share >= SAVED,
            ),
            _verdict("wake < 100 ms", wake, lambda late: late < _WAKE),
            _verdict("no data lost by hibernating", self._lost(), lambda lost: not lost),
            _verdict("99.9 % of connections restored", self._restored(), lambda share: share >= _RESTORED),
            _verdict("< 10 ms extra delay", self._delay(), lambda late: late < _DELAY),
        ]

    def _savings(self) -> float | None:
        """The share of what an idle connection would take in an awake room that it does not take."""
        sizes = self._told.bytes
        active, hibernated = sizes["active_connection"], sizes["hibernated_connection"]
        return None if not active or hibernated is None else round(1 - hibernated / active, _DIGITS)

    def _reduction(self) -> float | None:
        """The share of what rooms and connections would take, if all were awake, that they do not take."""
        told, sizes = self._told, self._told.bytes
        saved, active = sizes["saved"], sizes["active_connection"]
        if saved is None or active is None or not told.connections.total:
            return None
        taken = (
            told.connections.total * (sizes["hibernated_connection"] or 0)
            + told.rooms.awake * (sizes["awake_room"] or 0)
        )  # fmt: skip
        return round(saved / (saved + taken), _DIGITS)

    def _lost(self) -> int | None:
        """How often something of a room was lost; None until one has slept, and was woken."""
        told = self._told
        lost = told.lost["state"] + told.lost["snapshot"]
        seen = sum(told.sleeps.values()) and told.state_restoration_seconds.count
        return lost if lost or seen else None

    def _restored(self) -> float | None:
        """The share of clients that asked to go on with a session, and could."""
        asked = sum(self._told.resumes.values())
        return round(self._told.resumes["resumed"] / asked, _DIGITS) if asked else None

    def _delay(self) -> float | None:
        """Milliseconds that a message takes longer to a hibernated connection, in the worst case of 100."""
        delays = self._told.delivery_delay_seconds
        active, hibernated = _slow(delays.active), _slow(delays.hibernated)
        return None if active is None or hibernated is None else round(hibernated - active, 3)


def _leaf(declared: Any, measured: Any) -> dict[str, Any]:
    return {"declared": declared, "measured": measured}


def _verdict(standard: str, measured: float | None, holds: Callable[[float], bool]) -> dict[str, Any]:
    return {
        "standard": standard,
        "measured": measured,
        "holds": None if measured is None else holds(measured),
    }


def _seen(counts: Mapping[str, int]) -> dict[str, int] | None:
    """Counts, if anything was counted."""
    return dict(counts) if any(counts.values()) else None


def _any(counts: Mapping[str, Any]) -> bool:
    """Whether any of some counts, or of those in them, is not 0."""
    return any(_any(one) if isinstance(one, Mapping) else one for one in counts.values())


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


def _slow(summary: Summary) -> float | None:
    """Milliseconds that 99 of 100 did not take."""
    return _milliseconds(summary.p99)


def _wakes(definition: Definition) -> list[str]:
    """What wakes a room, as a `WakeReport` calls it."""
    causes = {
        "message": True,
        "connect": definition.on_connect is not None,
        "disconnect": definition.on_disconnect is not None,
        "ask": True,
        "destroy": True,
        "schedule": bool(definition.schedules),
        "priority": definition.wakes,
    }
    return [cause for cause, wakes in causes.items() if wakes]
