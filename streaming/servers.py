"""Where Kafka is said to be: whether anybody is there, and what is said if not.

Asked over a bare socket: a kafka-python client that finds nobody goes on trying on a thread of its own, or leaves its socket behind.
"""

from __future__ import annotations

import socket
import time
from datetime import timedelta

from streaming.errors import ClientError
from streaming.security import probe
from streaming.settings import KafkaSettings

Kafka = KafkaSettings | str
"""A Kafka: its settings, or just host:port, comma-separated, where there is nothing else to say."""

_CONNECT_S = 5.0
_POLL_S = 0.2


def settings_of(kafka: Kafka) -> KafkaSettings:
    """The settings, defaults where there are none."""
    return KafkaSettings(bootstrap_servers=kafka) if isinstance(kafka, str) else kafka


def reach(kafka: Kafka, *, timeout: timedelta = timedelta(0)) -> str:
    """The first server that takes a connection, and lets us in if it asks who we are.

    Args:
        kafka: where it is.
        timeout: how long to go on asking those that refuse connections; zero: each is asked once.

    Returns:
        Its host:port.

    Raises:
        ClientError: none does; with the last one's reason.
        AccessError: it does not let us in, or is not whom we trust.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    settings = settings_of(kafka)
    bootstrap_servers = settings.bootstrap_servers
    servers = [server.strip() for server in bootstrap_servers.split(",")]
    while True:
        for server in servers:
            try:
                with socket.create_connection(_address(server), timeout=_CONNECT_S) as connection:
                    probe(settings, server, connection)
            except (OSError, ValueError) as error:
                last = error
            else:
                return server
        if time.monotonic() >= deadline or not isinstance(last, OSError):
            reason = last.strerror if isinstance(last, OSError) and last.strerror else str(last)
            raise unreachable(bootstrap_servers, reason) from last
        time.sleep(_POLL_S)


def unreachable(bootstrap_servers: str, reason: str) -> ClientError:
    """Kafka's own words for it say neither where nor what to change; this does."""
    return ClientError(
        f"Kafka at {bootstrap_servers} cannot be reached ({reason}). [kafka] bootstrap_servers or KAFKA_BOOTSTRAP_SERVERS "
        "says where it is; where neither does, 'sensorloop kafka start' starts one on this machine."
    )


def _address(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        msg = f"'{server}' is not host:port"
        raise ValueError(msg)
    return host.strip("[]"), int(port)
