"""Where Kafka is said to be, with real sockets."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta

import pytest

from streaming import ports
from streaming.errors import ClientError
from streaming.servers import reach


def test_the_first_that_takes_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"127.0.0.1:{server.getsockname()[1]}"
        assert reach(there) == there
        assert reach(f"127.0.0.1:{ports.free_ports(1)[0]}, no-port , {there}") == there


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ("nonsense", "'nonsense' is not host:port"),
        ("127.0.0.1:", "'127.0.0.1:' is not host:port"),
        ("127.0.0.1:ten", "'127.0.0.1:ten' is not host:port"),
        ("127.0.0.1:99999", "'127.0.0.1:99999' is not host:port"),
        ("no-port,127.0.0.1:1", "Connection refused"),
    ],
)
def test_nobody_there_says_where_why_and_what_to_change(servers: str, reason: str) -> None:
    with pytest.raises(ClientError) as caught:
        reach(servers)
    for part in (f"Kafka at {servers} ", reason, "KAFKA_BOOTSTRAP_SERVERS", "sensorloop kafka start"):
        assert part in str(caught.value)
    assert caught.value.retriable


def test_one_that_comes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server opens when it has been asked for the first time."""
    (port,) = ports.free_ports(1)
    asked, real = threading.Event(), socket.create_connection

    def asking(*args: object, **kwargs: object) -> socket.socket:
        try:
            return real(*args, **kwargs)  # type: ignore[arg-type]
        finally:
            asked.set()

    monkeypatch.setattr(socket, "create_connection", asking)
    opened: list[socket.socket] = []

    def open_late() -> None:
        asked.wait(30)
        opened.append(socket.create_server(("127.0.0.1", port)))

    thread = threading.Thread(target=open_late)
    thread.start()
    try:
        assert reach(f"127.0.0.1:{port}", timeout=timedelta(seconds=30)) == f"127.0.0.1:{port}"
    finally:
        thread.join()
        opened[0].close()
