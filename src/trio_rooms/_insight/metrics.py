"""What is counted and measured of open rooms, as the program, ``/stats`` and ``/metrics`` are told it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from trio_rooms._metrics.histogram import Summary
from trio_rooms._runtime.runtime import Runtime

from .replay import SAVED
from .sizes import Sizes

__all__ = [
    "ConnectionCounts",
    "DeliveryMetrics",
    "DropMetrics",
    "QueueMetrics",
    "RoomCounts",
    "RoomsMetrics",
    "SnapshotMetrics",
    "metrics_of",
]


@attrs.frozen
class ConnectionCounts:
    """Connections of rooms now, see `Policy` for when one is hibernated."""

    active: int
    hibernated: int
    total: int


@attrs.frozen
class RoomCounts:
    """Rooms now."""

    awake: int
    """Those in memory, also while they wake or fall asleep."""
    asleep: int
    """Those that sleep and have connections."""


@attrs.frozen
class DeliveryMetrics:
    """Seconds from when something urgent was sent until all its recipients of one kind were written to."""

    active: Summary
    hibernated: Summary


@attrs.frozen
class SnapshotMetrics:
    """States that were written."""

    bytes: Summary
    seconds: Summary
    """From when the store was given one until it was durable."""


@attrs.frozen
class DropMetrics:
    """Messages that nobody gets, by why."""

    volatile: int
    """They may be dropped, and their connection was slow."""
    relays: int
    """Their connection relayed too many, or too much waited for the others already."""
    users: int
    """They were volatile and their user was not there, or an inbox had no room for them."""


@attrs.frozen
class QueueMetrics:
    """What waits now."""

    waking: int
    """Rooms that something has come for, and that wait for their turn to wake."""
    mailboxes: int
    """Mail of rooms that are awake, or about to be."""
    outputs: int
    """Rooms whose output is not all written yet."""
    users: int
    """Users for whom something is under way."""
    store: int
    """Commits that wait to be written."""


@attrs.frozen
class RoomsMetrics:
    """What `Rooms.metrics` gives; ``/stats`` shows it as ``"hibernation"``, with the same names.

    Counts and what was measured are those since the rooms were opened. Times are in seconds; each `Summary`
    has None where nothing was measured yet.
    """

    connections: ConnectionCounts
    rooms: RoomCounts
    ratio: float
    """The share of all connections that is hibernated; 0 where there are none."""
    ratio_target: float
    """What it is to be, see `Policy`; 0 for any."""
    cost_savings: float
    """The share of what connections cost that hibernation saves, as it is declared: the ratio times 0.9.
    What it really saves is in `bytes`."""
    bytes: Mapping[str, int | None]
    """What was measured of this process: ``resident``, all its memory; what one ``hibernated_connection``,
    ``active_connection`` and ``awake_room`` take; and ``saved``, by all that is hibernated. None for what is
    not known yet."""
    hibernation_duration_seconds: Summary
    """For how long rooms with connections slept."""
    hibernation_latency_seconds: Summary
    """From the decision that a room sleeps until it does: its last hook, and the commit."""
    state_restoration_seconds: Summary
    """For how long a state was read and decoded."""
    wake_latency_seconds: Summary
    """From when something came for a room that slept until the first of it was handled."""
    wake_wait_seconds: Summary
    """Of these, for how long a room waited for its turn to wake."""
    delivery_delay_seconds: DeliveryMetrics
    loop_lag_seconds: Summary
    """How late the event loop was, looked at while there is something to do."""
    snapshots: SnapshotMetrics
    wakes: Mapping[str, int]
    """By cause, as `WakeReport` has it."""
    sleeps: Mapping[str, int]
    """By trigger: ``idle``, ``low_activity``, ``ratio``, ``cap``, ``memory``, ``lag``, ``explicit`` and
    ``shutdown``."""
    blocked: Mapping[str, int]
    """How often a room was to sleep and could not, by reason."""
    sweeps: Mapping[str, int]
    """How often the least active were put to sleep, by trigger."""
    antipatterns: Mapping[str, int]
    """Rooms that do what keeps hibernation from being of use, by what that is."""
    lost: Mapping[str, int]
    """What could not be kept: a ``state`` whose last changes could not be saved as its room slept or
    stopped, a ``snapshot`` that could not be read, a ``message`` that was to be stored."""
    resumes: Mapping[str, int]
    """Clients that came back to go on with a session: those that ``resumed``, and those that could not, by
    why: ``unknown``, ``expired`` or ``too_far_behind``."""
    flaps: int
    """Wakes just after the room was put to sleep."""
    restarts: int
    """Crashes of rooms."""
    errors: int
    """Handlers that raised, and rooms that crashed."""
    drops: DropMetrics
    queues: QueueMetrics
    journal_bytes: int
    """What reliable messages take that somebody has not acknowledged, of the rooms in memory."""


def metrics_of(runtime: Runtime, sizes: Sizes) -> RoomsMetrics:
    """What is counted and measured until now.

    Args:
        runtime: open rooms.
        sizes: what was measured of their memory.
    """
    hub, supervisor, noted = runtime.hub, runtime.supervisor, runtime.hub.metrics
    sockets, users = hub.statistics(), supervisor.users.statistics()
    total = hub.sockets
    active = min(hub.activity.total, total)
    ratio = (total - active) / total if total else 0.0
    asleep = max(sockets.rosters - supervisor.awake, 0)
    mail, journals = supervisor.depths()
    return RoomsMetrics(
        connections=ConnectionCounts(active, total - active, total),
        rooms=RoomCounts(supervisor.awake, asleep),
        ratio=ratio,
        ratio_target=supervisor.policy.ratio,
        cost_savings=SAVED * ratio,
        bytes=sizes.told(hibernated=total - active, asleep=asleep),
        hibernation_duration_seconds=noted.hibernation_duration.summary(),
        hibernation_latency_seconds=noted.hibernation_latency.summary(),
        state_restoration_seconds=noted.state_restoration.summary(),
        wake_latency_seconds=noted.wake_latency.summary(),
        wake_wait_seconds=noted.wake_waits.summary(),
        delivery_delay_seconds=DeliveryMetrics(
            noted.delivery_active.summary(), noted.delivery_hibernated.summary()
        ),
        loop_lag_seconds=noted.loop_lag.summary(),
        snapshots=SnapshotMetrics(noted.snapshot_bytes.summary(), noted.snapshot_seconds.summary()),
        wakes=dict(noted.wakes),
        sleeps=dict(noted.sleeps),
        blocked=dict(noted.blocked),
        sweeps=dict(noted.sweeps),
        antipatterns=dict(noted.antipatterns),
        lost=dict(noted.lost),
        resumes=dict(noted.resumes),
        flaps=noted.flaps,
        restarts=supervisor.crashes,
        errors=noted.errors,
        drops=DropMetrics(sockets.dropped, sockets.relays_dropped, users.dropped),
        queues=QueueMetrics(
            supervisor.waking.queued, mail, hub.unwritten, users.pending, runtime.store.statistics().pending
        ),
        journal_bytes=journals,
    )
