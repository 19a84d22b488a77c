"""Where a server listens."""

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from fewstep.errors import ArgumentError

BACKLOG: Final = 512
LOOPBACK: Final = ("127.", "::1", "localhost")


@dataclass(frozen=True)
class Address:
    """A host and a port, or a Unix socket.

    Attributes:
        host: a name or an address; "0.0.0.0" for every network there is.
        port: 0 for a free one.
        uds: the path of a Unix socket instead of both.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.uds is not None or self.host.startswith(LOOPBACK)

    def listen(self) -> socket.socket:
        """A socket that listens there.

        Raises:
            ArgumentError: where it cannot, and why.
        """
        if self.uds is not None:
            return _listen_at(self.uds)
        if not 0 <= self.port <= 65535:
            raise ArgumentError("port", self.port, "an integer from 0, for a free one, to 65535")
        try:
            info = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError):
            raise ArgumentError("host", self.host, "a name or an address of this machine") from None
        try:
            return socket.create_server(info[0][4][:2], family=info[0][0], backlog=BACKLOG)
        except OSError as error:
            raise self._refusal(error) from error

    def url(self, listener: socket.socket) -> str:
        """What to ask, as curl has it."""
        if self.uds is not None:
            return f"http://localhost (--unix-socket {self.uds})"
        host, port = listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def leave(self, listener: socket.socket) -> None:
        """Listen no more; as often as one likes."""
        listener.close()
        if self.uds is not None:
            with suppress(OSError):
                os.unlink(self.uds)

    def _refusal(self, error: OSError) -> ArgumentError:
        if error.errno == errno.EADDRINUSE:
            return ArgumentError("port", self.port, f"a free one: something listens there on {self.host}; 0 finds one")
        if error.errno in (errno.EACCES, errno.EPERM):
            return ArgumentError("port", self.port, "one that this user may listen on, such as 8000")
        return ArgumentError("host", self.host, "a name or an address of this machine")


def _listen_at(path: str) -> socket.socket:
    """At a Unix socket, in place of one that nobody listens to any more; only this user and its group may write."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_socket(path):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                if other.connect_ex(path) == 0:
                    raise ArgumentError("uds", path, "a path where nothing listens")
            os.unlink(path)
        before = os.umask(0o117)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ArgumentError("uds", path, f"a path for a new socket: {error.strerror or error}") from error
    except ArgumentError:
        listener.close()
        raise
    return listener


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
