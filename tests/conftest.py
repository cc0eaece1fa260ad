"""What every test can use, and which tests are run for how long."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
from collections.abc import Callable, Generator
from typing import Any

import hypothesis
import pytest

from tests.valkey import oldest, one_valkey, own_valkey, valkey

__all__ = ["oldest", "one_valkey", "own_valkey", "valkey"]

# On a busy machine an example may take long, and drawing it too; what hangs is ended by the test's timeout.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    # Each run draws others, so that runs find what a run does not.
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# For scripts/lowest: whether other versions do something else takes fewer examples than tests/run has.
hypothesis.settings.register_profile("few", hypothesis.settings.get_profile("patient"), max_examples=20)
hypothesis.settings.load_profile("patient")

STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Leave out what takes minutes, unless ``-m`` speaks of it."""
    marks = config.option.markexpr
    if "long" not in marks:
        config.option.markexpr = f"({marks}) and not long" if marks else "not long"
    # Later, when a test runs, another file takes the place of this one.
    config.stash[STDERR] = os.dup(2)
    # In the background a shell lets programs ignore it, and the servers that the tests start would too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One for each core, and one more: many tests wait for a process that starts, or ends."""
    return (os.cpu_count() or 1) + 1


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close what was opened."""
    os.close(config.stash[STDERR])


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Print all stacks at a test's timeout, and end the process: a new worker goes on with the other tests.

    An exception, which is what pytest-timeout would raise, leaves a run of Trio half done, so that no other
    can begin; hypothesis would try once more what hung; and C code, or a handler of everything, does not let
    it through. A debugger that pytest did not start wants ``--timeout 0``.
    """
    faulthandler.dump_traceback_later(settings.timeout, file=item.config.stash[STDERR], exit=True)
    return True


def pytest_timeout_cancel_timer() -> bool:
    """The test has ended in time."""
    faulthandler.cancel_dump_traceback_later()
    return True


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Half a surrogate, which some tests log, is told as an escape: workers can say nothing but UTF-8."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list() | tuple():
            return type(value)(_encodable(one) for one in value)
        case dict():
            return {_encodable(key): _encodable(one) for key, one in value.items()}
        case _:
            return value


@pytest.fixture(scope="session")
def require() -> Callable[..., str]:
    """``require("chromium", "google-chrome")``: the path of the first of these programs that is installed.

    Where none is, the test is skipped; in CI, which installs what the tests need, it fails.
    """

    def require(*names: str) -> str:
        for name in names:
            path = shutil.which(name)
            if path is not None:
                return path
        missing = " or ".join(names)
        if os.environ.get("CI", "") not in {"", "0", "false"}:
            pytest.fail(f"{missing} is not installed, and CI runs every test", pytrace=False)
        pytest.skip(f"{missing} is not installed")

    return require
