"""The suite that every store passes: what `Store` promises, one test for each promise.

pytest is not imported here, so that this can be imported without it.
"""

from __future__ import annotations

from .commits import Commits
from .durability import Durability
from .ends import Ends
from .inboxes import Inboxes
from .journal import Journal
from .sessions import Sessions
from .storage import Storage
from .timers import Timers
from .uses import Uses

__all__ = ["StoreConformance"]


class StoreConformance(Storage, Commits, Ends, Durability, Journal, Sessions, Timers, Inboxes, Uses):
    """The suite that every store passes; subclass it with a fixture ``store``.

    The fixture returns a store that is empty and not open. With pytest and pytest-trio
    (``trio_mode = true``)::

        import pytest
        from trio_rooms.testing import StoreConformance

        class TestMyStore(StoreConformance):
            @pytest.fixture
            def store(self, tmp_path):
                return MyStore(tmp_path)

    ``pytest.register_assert_rewrite("trio_rooms.testing")`` in ``conftest.py`` makes its
    failures show the values that differ. The suite closes the store and opens it again to see
    what is durable; a kill of the process is for the store's own tests.
    """
