"""Who is in a room, as its server has told this client."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["PRESENCE", "Entries", "attend"]

PRESENCE: Final = "rooms.presence"
"""The event that tells who is here: first the whole, then what has changed."""

Entries = list[dict[str, Any]]
"""What is known of a user, a map for each connection."""


def attend(users: dict[str, Entries], data: dict[str, Any]) -> None:
    """Take what the server says of who is here.

    Args:
        users: the entries of each user who is here, which change.
        data: of a `PRESENCE`. Each user in it has its whole new list, an empty one for gone; so the same
            may come twice.

    Raises:
        KeyError, TypeError: it is not as the protocol has it; nothing is changed.
    """
    whole = "users" in data
    told = data["users" if whole else "changes"]
    if not isinstance(told, dict) or not all(map(_well_formed, told.keys(), told.values())):
        raise TypeError(told)
    if whole:
        users.clear()
    for user, entries in told.items():
        if entries:
            users[user] = entries
        else:
            users.pop(user, None)


def _well_formed(user: Any, entries: Any) -> bool:
    """Whether this is a name, and a list of maps."""
    return (
        isinstance(user, str) and isinstance(entries, list) and all(isinstance(one, dict) for one in entries)
    )
