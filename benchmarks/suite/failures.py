"""The one error that a benchmark survives."""

from __future__ import annotations


class Failed(Exception):
    """A contestant failed, and its text says how. The benchmark names it and goes on without it.

    What is not of this kind, and not an ``OSError``, is a defect of the suite, and ends it.
    """
