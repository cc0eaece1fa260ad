"""Speaking to Valkey, or Redis: one connection for Trio, and where to find the server."""

from __future__ import annotations

from .address import Address
from .checks import Durability
from .connection import Connection
from .library import Library
from .protocol import Argument, ServerError
from .server import Server

__all__ = ["Address", "Argument", "Connection", "Durability", "Library", "Server", "ServerError"]
