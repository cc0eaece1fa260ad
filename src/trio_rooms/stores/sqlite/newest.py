"""Where the newest snapshots of rooms are: most commits replace the other one, and need not look for it."""

from __future__ import annotations

import sqlite3
from typing import Final

import attrs

from trio_rooms.errors import StoreError
from trio_rooms.stores.base import Commit
from trio_rooms.stores.checks import writes_more

__all__ = ["GO_ON", "LARGE", "REPLACE", "Newest"]

LARGE: Final = 16 * 1024
"""Bytes of a document behind which no nonce is looked for: it is in rooms too, see the schema."""
# To write over a row takes half of what it takes to put another in its place: its pages stay where they are.
REPLACE: Final = "UPDATE snapshots SET generation = ?, document = ?, nonce = ?, epoch = ? WHERE id = ?"
GO_ON: Final = "UPDATE rooms SET number = ?, nonce = ?, epoch = ? WHERE id = ?"
_MOST: Final = 16_384
"""Rooms that are remembered, in some 300 bytes each: as many as may be saved in one moment."""


@attrs.define(eq=False)
class Newest:
    """Remembers rooms that have two snapshots, and puts off what only replaces the older one.

    What it remembers is true of the file as the open transaction has it. So it holds for one connection, and
    is to be forgotten whenever anything was rolled back, or somebody else may have written.
    """

    _connection: sqlite3.Connection
    _rooms: dict[str, tuple[int, int]] = attrs.field(factory=dict, init=False)
    """By key, the row of its newest snapshot, and the number of its last commit."""
    _snapshots: list[tuple[int, bytes, int, int, int]] = attrs.field(factory=list, init=False)
    """What `REPLACE` has still to be run with."""
    _numbers: list[tuple[int, int, int, int]] = attrs.field(factory=list, init=False)
    """The same for `GO_ON`."""

    def replace(self, commit: Commit, epoch: int) -> bool:
        """Carry out a commit, when `flush` is called, if it is the next one and nothing but a snapshot.

        Args:
            commit: which; all else than that is left to `commits.write`, errors too.
            epoch: that of the file.
        """
        room = self._rooms.get(commit.key)
        if room is None:
            return False
        row, number = room
        document = commit.document
        if (
            document is None
            or commit.number != number + 1
            or commit.epoch != epoch
            or commit.sends
            or writes_more(commit)
        ):
            # It is about to be changed by somebody else, who has to see what is put off.
            self.flush()
            del self._rooms[commit.key]
            return False
        row ^= 1
        self._rooms[commit.key] = row, commit.number
        self._snapshots.append((commit.number, document, commit.nonce, epoch, row))
        if len(document) > LARGE:
            self._numbers.append((commit.number, commit.nonce, epoch, row >> 1))
        return True

    def flush(self) -> None:
        """Write what was put off.

        Raises:
            StoreError, sqlite3.Error: the transaction has to be rolled back.
        """
        snapshots = self._snapshots
        if snapshots:
            found = self._connection.executemany(REPLACE, snapshots).rowcount
            if found != len(snapshots):
                msg = f"{len(snapshots) - found} of {len(snapshots)} snapshots are not where they were"
                raise StoreError(msg)
            snapshots.clear()
        if self._numbers:
            self._connection.executemany(GO_ON, self._numbers)
            self._numbers.clear()

    def remember(self, commit: Commit, row: int) -> None:
        """A room has two snapshots, the newest in this row, and this was its last commit.

        Raises:
            StoreError, sqlite3.Error: as `flush`.
        """
        if len(self._rooms) >= _MOST:
            self.flush()  # Who is not remembered has to be looked up as he is.
            self._rooms.clear()
        self._rooms[commit.key] = row, commit.number

    def forget(self) -> None:
        """Know nothing, and have nothing to write."""
        self._rooms.clear()
        self._snapshots.clear()
        self._numbers.clear()
