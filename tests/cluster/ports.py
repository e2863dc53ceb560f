"""Ports of loopback for servers that can not pick their own."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 10_000, 32_000
"""Below what Linux gives to outgoing connections, so that a server can come back on its port."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, at random, as others may look for one at the same time."""
    while True:
        port = random.randint(FIRST, LAST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
