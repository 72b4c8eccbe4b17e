"""TCP ports of this machine: which are free, and who has those that are not."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

import psutil

from streaming.errors import PortTaken


def require_free(host: str, port: int, *, what: str, setting: str) -> None:
    """Make sure that a service can listen there.

    Args:
        host: the address to listen on.
        port: the port to listen on.
        what: the service, for the message: ``Kafka``.
        setting: what to change to have another port, for the message: ``[broker] port``.

    Raises:
        PortTaken: somebody listens there already (the message says who, where the system tells us), or the address is not
            ours to listen on.
    """
    try:
        _bound(host, port).close()
    except OSError as error:
        where = f"{what} cannot listen on {host}:{port} ({error.strerror})"
        if error.errno == errno.EADDRINUSE:
            msg = f"{where}: {_owner(port)}. End that process, or choose another port with {setting}."
        else:
            msg = f"{where}. Choose another port with {setting}, or another host beside it."
        raise PortTaken(msg) from error


def is_free(host: str, port: int) -> bool:
    """Whether a service could listen there just now."""
    try:
        _bound(host, port).close()
    except OSError:
        return False
    return True


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports, all different, that were free a moment ago; for tests and for services nobody has to find by a fixed address.

    Nothing keeps another process from taking one before it is used.
    """
    with ExitStack() as held:
        return [held.enter_context(_bound(host, 0)).getsockname()[1] for _ in range(count)]


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    server = socket.socket(family, kind, protocol)
    try:
        # As servers do: without it a connection that was closed a minute ago would look like a server.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        # With this option two may be bound, but only one may listen.
        server.listen(1)
    except OSError:
        server.close()
        raise
    return server


def _owner(port: int) -> str:
    try:
        listening = [
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        ]
        if not listening:
            return "no process is known to listen there"
        if listening[0] is None:
            return "a process of another user has it"
        process = psutil.Process(listening[0])
        return f"process {process.pid} has it ({' '.join(process.cmdline())[:120] or process.name()})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return "another process has it"
