"""The limit of fan-out: the ready frame goes to all connections, in a bare loop of non-blocking writes.

    python -m benchmarks.peers.bare_loop fanout

In the dialect `REFLECTED`, as the reflector: the sender sends the very bytes that all must get.
"""

from __future__ import annotations

from benchmarks.peers.reflector import serve

if __name__ == "__main__":
    serve(lambda _, connected: connected)
