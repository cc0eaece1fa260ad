"""Functions in Lua that run in the server."""

from __future__ import annotations

import hashlib
from typing import Final

import attrs

__all__ = ["Library"]

_HEAD: Final = """#!lua name={name}
local function register(name, callback, flags)
  redis.register_function{{function_name = '{name}_' .. name, callback = callback, flags = flags or {{}}}}
end
"""


@attrs.frozen
class Library:
    """Functions under names of their own for each version of their text.

    So nodes of different versions can be connected to one server, and each calls those that it came with.
    """

    name: str
    """What they are all about, in letters and underscores."""
    text: str
    """Lua that calls ``register(name, callback, flags)`` for each of them; it needs no first line."""
    full_name: str = attrs.field(init=False)
    """The library's name in the server."""

    @full_name.default
    def _full_name(self) -> str:
        return f"{self.name}_{hashlib.blake2b(self.text.encode(), digest_size=6).hexdigest()}"

    @property
    def source(self) -> str:
        """What the server loads."""
        return _HEAD.format(name=self.full_name) + self.text

    def function(self, name: str) -> str:
        """The name of a function in the server."""
        return f"{self.full_name}_{name}"
