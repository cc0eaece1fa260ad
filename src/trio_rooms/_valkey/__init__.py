"""Speaking to Valkey, or Redis: one connection for Trio, and where to find the server."""

from __future__ import annotations

from .address import Address
from .checks import Durability
from .connection import Argument, Connection, ServerError
from .library import Library
from .server import Server

__all__ = ["Address", "Argument", "Connection", "Durability", "Library", "Server", "ServerError"]
