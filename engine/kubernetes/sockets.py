"""Connections as they are wanted of API servers: kept for some time, and never silently dead."""

from __future__ import annotations

import socket
from typing import Final

CONNECT_TIMEOUT_S: Final = 10.0
IDLE_S: Final = 60.0
"""How long a connection is kept for the next request; the API server closes idle ones after 90 s."""

_OPTIONS: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 15),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 35_000),
)
"""A peer that is gone without a word is noticed after 35 s, both while a watch is silent and while a request
is being sent. Not every system has every option."""


def open_socket(address: tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, object]) -> socket.socket:
    """A socket for what ``getaddrinfo`` found, not connected yet."""
    made = socket.socket(address[0], address[1], address[2])
    for level, name, value in _OPTIONS:
        option: int | None = getattr(socket, name, None)
        if option is not None:
            made.setsockopt(level, option, value)
    return made
