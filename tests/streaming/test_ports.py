"""Ports, with real sockets."""

from __future__ import annotations

import os
import socket

import pytest

from streaming import ports
from streaming.errors import PortTaken


def test_a_taken_port_is_refused_with_who_and_which_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            ports.require_free("127.0.0.1", port, what="Kafka", setting="[broker] port")
    for part in (f"127.0.0.1:{port}", f"process {os.getpid()}", "[broker] port", "Kafka"):
        assert part in str(caught.value)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1:\d+ \(Cannot assign requested address\)\. Choose another"):
        ports.require_free("192.0.2.1", ports.free_ports(1)[0], what="Kafka", setting="[broker] port")


def test_a_port_just_closed_is_free_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    ports.require_free("127.0.0.1", port, what="Kafka", setting="[broker] port")


def test_free_ports_are_different_and_free() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    for port in found:
        ports.require_free("127.0.0.1", port, what="Kafka", setting="[broker] port")


def test_a_port_is_free_until_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free("127.0.0.1", port)
    assert ports.is_free("127.0.0.1", port)
