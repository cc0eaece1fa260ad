"""A server does what RFC 6455 says, whether its rooms sleep or not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.conformance.autobahn import ASLEEP, AWAKE, run_all

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("kosoku") is None, reason="there is no kosoku for this machine"
    ),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize("idle_timeout", [pytest.param(AWAKE, marks=pytest.mark.long), ASLEEP])
def test_autobahn_cases(idle_timeout: float, tmp_path: Path) -> None:
    """Every case of the Autobahn test suite but those about compression passes, one at a time."""
    results = run_all(idle_timeout, [], tmp_path)
    assert [result for result in results if not result.passed] == []
