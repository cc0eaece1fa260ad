"""What every test can use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest


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
