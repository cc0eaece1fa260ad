"""The metrics as Prometheus reads them, in the format that it asks for. Needs its client library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trio_rooms._insight.insight import Insight
from trio_rooms._metrics.histogram import Histogram
from trio_rooms._room.lifecycle import Stage
from trio_rooms._wire.handshake import Response

__all__ = ["exposition"]

_SHORT: Final = tuple(2.0**power for power in range(-14, 4))
"""Bounds of what takes from microseconds to seconds. Powers of two are bounds of a `Histogram`, too, so that
what is counted below one is exact."""
_LONG: Final = tuple(2.0**power for power in range(-2, 23, 2))
"""Of what takes from moments to months."""
_BYTES: Final = tuple(2.0**power for power in range(4, 29, 2))
_MOST_VALUES: Final = 64
"""Values of one label, beyond which others are added up: each is a series that Prometheus keeps."""
_FIRST_OWN: Final = 4000
"""Close codes from here on are the applications' own, a thousand of them."""

_GAUGES: Final[tuple[tuple[str, str, Callable[[Any], float | None]], ...]] = (
    ("hibernation_ratio", "Share of all connections that is hibernated", lambda told: told.ratio),
    ("hibernation_ratio_target", "What it is to be, 0 for any", lambda told: told.ratio_target),
    (
        "cost_savings_ratio",
        "Share of connections' cost that hibernation saves",
        lambda told: told.cost_savings,
    ),
    ("resident_bytes", "Memory of the process", lambda told: told.bytes["resident"]),
    (
        "hibernated_connection_bytes",
        "What a hibernated connection takes",
        lambda told: told.bytes["hibernated_connection"],
    ),
    ("active_connection_bytes", "What an active one takes", lambda told: told.bytes["active_connection"]),
    ("awake_room_bytes", "What an awake room takes", lambda told: told.bytes["awake_room"]),
    ("saved_bytes", "What all that is hibernated saves", lambda told: told.bytes["saved"]),
    (
        "journal_bytes",
        "Reliable messages of rooms in memory that are not acknowledged",
        lambda told: told.journal_bytes,
    ),
)
_HISTOGRAMS: Final = (
    ("hibernation_duration_seconds", "For how long rooms slept", "hibernation_duration", _LONG),
    (
        "hibernation_latency_seconds",
        "From the decision to sleep until it is done",
        "hibernation_latency",
        _SHORT,
    ),
    ("state_restoration_seconds", "For how long a state was read and decoded", "state_restoration", _SHORT),
    ("wake_latency_seconds", "From what wakes a room until it is handled", "wake_latency", _SHORT),
    ("wake_wait_seconds", "Of these, the wait for its turn to wake", "wake_waits", _SHORT),
    ("loop_lag_seconds", "How late the event loop was", "loop_lag", _SHORT),
    ("snapshot_seconds", "Until a state was durable that was to be written", "snapshot_seconds", _SHORT),
    ("snapshot_bytes", "States that were written", "snapshot_bytes", _BYTES),
)
_COUNTERS: Final[tuple[tuple[str, str, str, Callable[[Any], Mapping[str, int]]], ...]] = (
    ("wakes", "Rooms that woke", "cause", lambda told: told.wakes),
    ("hibernations", "Rooms that fell asleep", "trigger", lambda told: told.sleeps),
    ("hibernation_blocked", "Times that a room could not sleep", "reason", lambda told: told.blocked),
    ("sweeps", "Times that the least active were put to sleep", "trigger", lambda told: told.sweeps),
    ("antipatterns", "Rooms found to sleep badly", "antipattern", lambda told: told.antipatterns),
    ("lost", "What could not be kept", "what", lambda told: told.lost),
    ("resumes", "Clients that came back, by what they were told", "outcome", lambda told: told.resumes),
)
_TOTALS: Final[tuple[tuple[str, str, Callable[[Any], int]], ...]] = (
    ("flaps", "Wakes just after the room was put to sleep", lambda told: told.flaps),
    ("restarts", "Crashes of rooms", lambda told: told.restarts),
    ("errors", "Handlers that raised, and rooms that crashed", lambda told: told.errors),
)
_CLUSTER_GAUGES: Final = (
    ("members", "Nodes that live, this one too"),
    ("owned", "Rooms that are at home here"),
    ("lanes", "Nodes that something goes to"),
    ("lane_bytes", "What is on its way to other nodes, or waits"),
    ("unanswered", "Calls that other nodes have not answered"),
    ("paused", "Whether the lease is not good now, so that nothing is done"),
    ("draining", "Whether the node gives its rooms away"),
)
_CLUSTER_TOTALS: Final = (
    ("claims", "Rooms that were claimed"),
    ("calls", "Calls that other nodes were asked"),
    ("pauses", "Times that the lease could not be renewed in time"),
    ("forsaken", "Rooms that somebody else has taken over"),
    ("lives", "Incarnations, the first one too"),
)


def exposition(insight: Insight, statistics: Any, accept: str) -> Response:
    """All metrics of open rooms, and those of the process.

    Args:
        insight: the rooms'.
        statistics: what `Rooms.statistics` gives.
        accept: the header of the request: whoever asks for it gets OpenMetrics.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Rooms(insight, statistics))
    try:
        encode, kind = choose_encoder(accept)
    except (TypeError, ValueError):
        encode, kind = choose_encoder("")  # A version that is none, which the library takes for one.
    return Response(200, encode(registry), {"Cache-Control": "no-store"}, kind=kind)


class _Rooms(Collector):
    """What rooms have counted and measured, for one answer."""

    def __init__(self, insight: Insight, statistics: Any) -> None:
        self._told = insight.metrics()
        self._noted = insight.runtime.hub.metrics
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        told, noted = self._told, self._noted
        connections = {"active": told.connections.active, "hibernated": told.connections.hibernated}
        yield _gauge("connections", "Connections of rooms", "state", connections)
        yield _gauge(
            "rooms", "Rooms in memory, and those asleep that have connections", "stage", self._rooms()
        )
        for name, what, value in _GAUGES:
            found = value(told)
            if found is not None:
                yield GaugeMetricFamily(f"trio_rooms_{name}", what, value=found)
        for name, what, label, counts in _COUNTERS:
            yield _counter(name, what, label, counts(told))
        for name, what, count in _TOTALS:
            yield CounterMetricFamily(f"trio_rooms_{name}", what, value=count(told))
        for name, what, attribute, bounds in _HISTOGRAMS:
            family = HistogramMetricFamily(f"trio_rooms_{name}", what, labels=())
            family.add_metric((), *_buckets(getattr(noted, attribute), bounds))
            yield family
        delays = HistogramMetricFamily(
            "trio_rooms_delivery_delay_seconds",
            "From a send until all recipients of a kind were written to",
            labels=("recipient",),
        )
        delays.add_metric(("active",), *_buckets(noted.delivery_active, _SHORT))
        delays.add_metric(("hibernated",), *_buckets(noted.delivery_hibernated, _SHORT))
        yield delays
        yield from self._others()

    def _rooms(self) -> dict[str, int]:
        """By stage, each of which is told."""
        supervisor = self._statistics.supervisor
        stages = dict.fromkeys((stage.value for stage in Stage), 0) | dict(supervisor.stages)
        return stages | {"asleep": self._told.rooms.asleep, "failed": supervisor.failed}

    def _others(self) -> Iterator[Metric]:
        """What waits and what was done, that has nothing to do with sleep."""
        told, sockets, store = self._told, self._statistics.hub, self._statistics.store
        users, servers = self._statistics.users, self._statistics.servers
        queues, drops = told.queues, told.drops
        waits = {
            "waking": queues.waking,
            "mailboxes": queues.mailboxes,
            "outputs": queues.outputs,
            "users": queues.users,
            "store": queues.store,
        }
        yield _gauge("queue_length", "What waits", "queue", waits)
        yield _gauge("closing_connections", "Open for their closing handshake alone", None, sockets.closing)
        yield _gauge("users_connected", "Users that have a connection", None, users.connected)
        dropped = {"volatile": drops.volatile, "relays": drops.relays, "users": drops.users}
        yield _counter("dropped_messages", "Messages that nobody gets", "kind", dropped)
        messages = {
            "received": sockets.received,
            "answered": sockets.answered,
            "sent": sockets.sent,
            "relayed": sockets.relayed,
        }
        yield _counter("messages", "Messages of connections", "way", messages)
        sends = {
            "sent": users.sent,
            "delivered": users.delivered,
            "stored": users.stored,
            "expired": users.expired,
            "dropped": users.dropped,
            "given_back": users.given_back,
        }
        yield _counter("user_messages", "What became of messages to users", "outcome", sends)
        closes: dict[str, int] = {}
        for code, count in sockets.closes.items():
            name = str(code) if code < _FIRST_OWN else "4000-4999"
            closes[name] = closes.get(name, 0) + count
        yield _counter("closes", "Connections closed by the server", "code", closes)
        came = {
            "accepted": sum(one.accepted for one in servers),
            "opened": sum(one.opened for one in servers),
            "refused": sum(one.refused for one in servers),
        }
        yield _counter("handshakes", "Connections by what became of them", "outcome", came)
        slow = self._statistics.supervisor.slow
        yield CounterMetricFamily("trio_rooms_slow_handlers", "Handlers that took too long", value=slow)
        for name, what, count in (
            ("commits", "Commits that became durable", store.commits),
            ("commit_failures", "Commits that were refused or failed", store.failures),
            ("transactions", "Transactions of the store", store.transactions),
        ):
            yield CounterMetricFamily(f"trio_rooms_{name}", what, value=count)
        yield from self._cluster()

    def _cluster(self) -> Iterator[Metric]:
        """What this node has to do with the others, if it is one of several."""
        cluster = self._statistics.cluster
        if cluster is None:
            return
        for name, what in _CLUSTER_GAUGES:
            value = float(getattr(cluster, name))
            yield GaugeMetricFamily(f"trio_rooms_cluster_{name}", what, value=value)
        for name, what in _CLUSTER_TOTALS:
            value = getattr(cluster, name)
            yield CounterMetricFamily(f"trio_rooms_cluster_{name}", what, value=value)


def _gauge(name: str, what: str, label: str | None, values: Mapping[str, float] | float) -> Metric:
    """What there is now, by the values of a label, or in all."""
    if isinstance(values, Mapping):
        assert label is not None
        family = GaugeMetricFamily(f"trio_rooms_{name}", what, labels=(label,))
        for value, count in values.items():
            family.add_metric((value,), count)
        return family
    return GaugeMetricFamily(f"trio_rooms_{name}", what, value=values)


def _counter(name: str, what: str, label: str, counts: Mapping[str, int]) -> Metric:
    """How often something was, by the values of a label; those beyond the first few in one."""
    family = CounterMetricFamily(f"trio_rooms_{name}", what, labels=(label,))
    others = 0
    for number, (value, count) in enumerate(counts.items()):
        if number < _MOST_VALUES:
            family.add_metric((value,), count)
        else:
            others += count
    if others:
        family.add_metric(("other",), others)
    return family


def _buckets(histogram: Histogram, bounds: tuple[float, ...]) -> tuple[list[tuple[str, float]], float]:
    """What is known of values up to each bound, and their sum."""
    counts = [*histogram.up_to(bounds), histogram.count]
    names = [*map(str, bounds), "+Inf"]
    return [(name, float(count)) for name, count in zip(names, counts, strict=True)], histogram.sum
