"""The open connections of the page's server: how many there may be, and for how long."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus

MOST = 64
FIRST_S = 10.0  # within which a request must be complete
IDLE_S = 60.0  # the same, after a request that had the token


@dataclass
class _Wait:
    """What the server waits for on a connection: since when, None while it answers."""

    since: float | None
    trusted: bool = False

    def is_late(self, now: float) -> bool:
        return self.since is not None and now - self.since > (IDLE_S if self.trusted else FIRST_S)


class Connections:
    """The connections; the one that has sent no request for longest gives way to a new one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: dict[socket.socket, _Wait] = {}

    def add(self, connection: socket.socket) -> bool:
        """Take a new connection; False if all there may be are being answered."""
        with self._lock:
            if len(self._waits) >= MOST:
                waiting = [
                    (wait.trusted, wait.since, other)
                    for other, wait in self._waits.items()
                    if wait.since is not None
                ]
                if not waiting:
                    return False
                self._end(min(waiting, key=lambda found: found[:2])[2])
            self._waits[connection] = _Wait(time.monotonic())
            return True

    def remove(self, connection: socket.socket) -> None:
        with self._lock:
            self._waits.pop(connection, None)

    def await_request(self, connection: socket.socket) -> None:
        """Start the time within which the next request must be complete."""
        self._set_since(connection, time.monotonic())

    def begin_answer(self, connection: socket.socket) -> None:
        """Keep a connection whose request, with the token, is complete."""
        self._set_since(connection, None)

    def _set_since(self, connection: socket.socket, since: float | None) -> None:
        with self._lock:
            if wait := self._waits.get(connection):
                wait.since, wait.trusted = since, wait.trusted or since is None

    def end_late(self) -> None:
        """Answer 408 where a request took too long, and end the connection."""
        now = time.monotonic()
        with self._lock:
            for connection in [c for c, wait in self._waits.items() if wait.is_late(now)]:
                self._end(connection, HTTPStatus.REQUEST_TIMEOUT)

    def _end(
        self,
        connection: socket.socket,
        status: HTTPStatus = HTTPStatus.SERVICE_UNAVAILABLE,
    ) -> None:
        """Wake the connection's thread, which then closes it."""
        del self._waits[connection]
        send_status(connection, status)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def send_status(connection: socket.socket, status: HTTPStatus) -> None:
    """Send an answer without a body, if that goes at once."""
    head = f"HTTP/1.1 {status} {status.phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError):
        connection.send(head.encode(), socket.MSG_DONTWAIT)
