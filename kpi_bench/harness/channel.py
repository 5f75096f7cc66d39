"""JSON lines over a socket between the harness and the process that runs a submission."""

from __future__ import annotations

import json
import select
import socket
from typing import Any

from kpi_bench.errors import RunError

Message = dict[str, Any]


class Channel:
    """One end of the line. Messages are JSON objects, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends."""
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    @classmethod
    def from_fd(cls, descriptor: int) -> Channel:
        """The end that a parent process left open for this one."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """File descriptor, to be passed to a child."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            RunError: the other end is gone.
        """
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError) as error:
            raise RunError("the other process closed the line") from error

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None when ``timeout`` seconds pass without one.

        Raises:
            EOFError: the other end is closed and nothing is left to read.
        """
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._socket], [], [], timeout)
            if not ready:
                return None
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
