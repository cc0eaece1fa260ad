"""When what comes again is due: in a fixed period, or by the rules of cron.

Times are seconds since 1970. Nothing here looks at a clock.
"""

from __future__ import annotations

import datetime
import math
import zoneinfo
from typing import Final

import attrs
from cronsim import CronSim, CronSimError

__all__ = ["FIRST_TIME", "LAST_TIME", "SHORTEST", "Cron", "Every", "Rule", "zone_of"]

FIRST_TIME: Final = -62_135_596_800.0
LAST_TIME: Final = 253_370_764_800.0
"""The years 1 and 9999 begin, the first and the last that a date can have."""
SHORTEST: Final = 1.0
"""Seconds of the shortest period, which is also that of cron. Each occurrence is a commit."""
_LONGEST: Final = 256
"""Characters of a cron expression and of a zone's name at most: what is longer is no such thing."""


@attrs.frozen
class Every:
    """Again and again after a fixed time, whatever clocks people put forward and back."""

    period: float
    first: float
    """When it is due for the first time; every other time is a whole number of periods later."""

    def following(self, moment: float) -> float:
        """The first time behind a moment."""
        if moment < self.first:
            return self.first
        count = math.floor((moment - self.first) / self.period)
        # The division rounds, so it may be one too many or too few.
        while (when := self.first + count * self.period) <= moment:
            count += 1
        return when


@attrs.frozen
class Cron:
    """At the times of day that a cron expression names, as Debian's cron understands it.

    Where clocks are put forward, what falls into the hour that is missing is due as it ends; where they
    are put back, what falls into the hour that there is twice is due in the first of the two. Both only
    where neither minute nor hour begins with ``*``: what is due every few minutes is so all the same.
    """

    expression: str
    zone: str

    def check(self) -> None:
        """See that it can be used.

        Raises:
            ValueError: it is no cron expression, it never comes, or there is no such zone.
        """
        zone = zone_of(self.zone)
        why = f"it has more than {_LONGEST} characters"
        try:
            if len(self.expression) <= _LONGEST:
                next(CronSim(self.expression, datetime.datetime(2024, 1, 1, tzinfo=zone)))
                return
        except StopIteration:
            why = "it names no day of the next 50 years"
        except (CronSimError, AssertionError, TypeError, ValueError) as error:  # The last three for oddities.
            why = str(error) or "it cannot be read"
        msg = (
            f"cron is an expression such as '30 6 * * MON-FRI' (minute, hour, day of the month, month, day "
            f"of the week), not {self.expression!r:.100}: {why}"
        )
        raise ValueError(msg)

    def following(self, moment: float) -> float | None:
        """The first time behind a moment; None where there is none in 50 years.

        Raises:
            ValueError: as `check`.
        """
        start = datetime.datetime.fromtimestamp(math.floor(moment), zone_of(self.zone))
        for found in CronSim(self.expression, start):
            # From within the hour that there is twice it goes on in the first of the two.
            when = found.timestamp()
            if when > moment:
                return when
        return None


Rule = Every | Cron


def zone_of(name: str) -> datetime.tzinfo:
    """A time zone by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name == "UTC":
        return datetime.UTC
    try:
        if len(name) <= _LONGEST:
            return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
        pass  # It may be no name at all, or that of a folder.
    msg = f"tz is the name of a time zone, such as 'Europe/Berlin', and there is no {name!r:.100}"
    raise ValueError(msg)
