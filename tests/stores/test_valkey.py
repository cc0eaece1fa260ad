"""The store in Valkey: the suite of every store, and what becomes of it when the server goes away."""

from __future__ import annotations

import itertools
import os

import pytest

from tests.valkey import Valkey, one_valkey, own_valkey, valkey
from trio_rooms.stores.base import Store
from trio_rooms.stores.valkey.store import ValkeyStore
from trio_rooms.testing import StoreConformance

__all__ = ["one_valkey", "own_valkey", "valkey"]

_numbers = itertools.count()


class TestValkeyStore(StoreConformance):
    @pytest.fixture
    def store(self, one_valkey: Valkey) -> Store:
        return ValkeyStore(one_valkey.url, prefix=f"{os.getpid()} \u00e9 {next(_numbers)}")
