"""All that a runtime counts and measures, always."""

from __future__ import annotations

from collections import Counter
from typing import Final

from .histogram import Histogram

__all__ = ["CAUSES", "LOSSES", "RESUMES", "TRIGGERS", "Metrics"]

CAUSES: Final = ("message", "connect", "disconnect", "ask", "destroy", "schedule", "priority")
"""What wakes a room; each is shown, also where it never did."""
TRIGGERS: Final = ("idle", "low_activity", "ratio", "cap", "memory", "lag", "explicit", "shutdown")
"""What puts one to sleep; the same."""
LOSSES: Final = ("state", "snapshot", "message")
"""What is lost; the same."""
RESUMES: Final = ("resumed", "unknown", "expired", "too_far_behind")
"""What becomes of a client that wants to go on with its session; the same."""


class Metrics:
    """One for each runtime; whoever does something notes it here."""

    __slots__ = (
        "antipatterns",
        "blocked",
        "delivery_active",
        "delivery_hibernated",
        "errors",
        "flaps",
        "hibernation_duration",
        "hibernation_latency",
        "loop_lag",
        "lost",
        "resumes",
        "sleeps",
        "snapshot_bytes",
        "snapshot_seconds",
        "state_restoration",
        "sweeps",
        "wake_latency",
        "wake_waits",
        "wakes",
    )

    def __init__(self) -> None:
        self.wakes: Counter[str] = Counter(dict.fromkeys(CAUSES, 0))
        """Rooms that woke, by cause."""
        self.sleeps: Counter[str] = Counter(dict.fromkeys(TRIGGERS, 0))
        """Rooms that fell asleep, by trigger."""
        self.blocked: Counter[str] = Counter()
        """Times that a room was to sleep and could not, by reason."""
        self.sweeps: Counter[str] = Counter()
        """Sweeps, by trigger."""
        self.antipatterns: Counter[str] = Counter()
        """Rooms that were found to do what keeps hibernation from being of use, by what that is."""
        self.lost: Counter[str] = Counter(dict.fromkeys(LOSSES, 0))
        """What could not be kept: a ``state`` whose last changes could not be saved as its room slept or
        stopped, a ``snapshot`` that could not be read, a ``message`` that was to be stored."""
        self.resumes: Counter[str] = Counter(dict.fromkeys(RESUMES, 0))
        """Clients that came back to go on with a session, by what they were told."""
        self.flaps: int = 0
        """Wakes just after the room was put to sleep."""
        self.errors: int = 0
        """Handlers and hooks that raised."""
        self.hibernation_duration: Histogram = Histogram()
        """Seconds for which a room slept."""
        self.hibernation_latency: Histogram = Histogram()
        """Seconds from the decision that a room sleeps until it does."""
        self.state_restoration: Histogram = Histogram()
        """Seconds for which a room's state was read and decoded."""
        self.wake_latency: Histogram = Histogram()
        """Seconds from when something came for a room that slept until its handler began."""
        self.wake_waits: Histogram = Histogram()
        """Of these, the seconds for which it waited for its turn to wake."""
        self.delivery_active: Histogram = Histogram()
        """Seconds from when something was sent until it was handed to the kernel, for active recipients."""
        self.delivery_hibernated: Histogram = Histogram()
        """The same, for hibernated ones; what is to wait, low or gathered, does not count."""
        self.snapshot_bytes: Histogram = Histogram()
        """Bytes of a snapshot that was written."""
        self.snapshot_seconds: Histogram = Histogram()
        """Seconds for which it was written."""
        self.loop_lag: Histogram = Histogram()
        """Seconds that the event loop was late."""
