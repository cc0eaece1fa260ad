"""The page, made of its three parts once, when it is imported."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Final

from trio_rooms._wire.handshake import Response

__all__ = ["DASHBOARD"]


def _part(kind: str) -> str:
    """One part of the page, as it stands in its file."""
    return files(__package__).joinpath(f"page.{kind}").read_text("utf-8")


def _hash(content: str) -> str:
    """How a policy names what a style or a script has in it (CSP3, 8.4)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _dashboard() -> Response:
    """The page with its style and its script in it, which may ask this server and load nothing."""
    style, script = _part("css"), _part("js")
    body = _part("html").replace("/* page.css */", style).replace("/* page.js */", script)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(200, body.encode(), headers, kind="text/html; charset=utf-8")


DASHBOARD: Final = _dashboard()
"""What is answered to whoever may see it."""
