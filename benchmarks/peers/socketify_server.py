"""The peer socketify: uWebSockets, with its handlers in Python.

``python -m benchmarks.peers.socketify_server echo|fanout`` serves until killed.
"""

from __future__ import annotations

import sys
from typing import Any

import socketify


def main(role: str) -> None:
    """Serve on a free port."""
    app = socketify.App()

    def enter(connection: Any) -> None:
        connection.subscribe("all")

    def echo(connection: Any, message: str | bytes, opcode: socketify.OpCode) -> None:
        connection.send(message, opcode)

    def fanout(_: Any, message: str | bytes, opcode: socketify.OpCode) -> None:
        app.publish("all", message, opcode)

    app.ws(
        "/*",
        {
            "compression": socketify.CompressOptions.DISABLED,
            "idle_timeout": 0,
            "send_pings_automatically": False,
            **({"message": echo} if role == "echo" else {"open": enter, "message": fanout}),
        },
    )
    options = socketify.AppListenOptions(port=0, host="127.0.0.1")
    app.listen(options, lambda told: print(f"listening on ws://127.0.0.1:{told.port}", flush=True))
    app.run()


if __name__ == "__main__":
    main(sys.argv[1])
