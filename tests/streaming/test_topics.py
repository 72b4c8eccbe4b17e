"""Topics of a real Kafka."""

from __future__ import annotations

import socket

import pytest

from streaming import ports, topics
from streaming.errors import ClientError
from streaming.topics import create_topics

pytestmark = pytest.mark.broker


def test_topics_are_made_once(bootstrap_servers: str) -> None:
    assert create_topics(bootstrap_servers, {"once.a": 3, "once.b": 1}) == {"once.a": 3, "once.b": 1}
    assert create_topics(bootstrap_servers, {"once.a": 8, "once.c": 2}) == {"once.a": 3, "once.c": 2}
    assert create_topics(bootstrap_servers, {}) == {}


@pytest.mark.parametrize(("name", "partitions"), [("not/a/name", 1), ("none", 0)])
def test_a_refusal_is_named(bootstrap_servers: str, name: str, partitions: int) -> None:
    with pytest.raises(ClientError, match=f"{name} at {bootstrap_servers}: .*Invalid"):
        create_topics(bootstrap_servers, {name: partitions})


def test_nobody_there_is_named() -> None:
    nobody = f"127.0.0.1:{ports.free_ports(1)[0]}"
    with pytest.raises(ClientError, match=f"at {nobody} cannot be reached .*refused.*sensorloop kafka start"):
        create_topics(nobody, {"a": 1})


def test_somebody_else_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "_TIMEOUT_MS", 300)
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClientError, match=f"{other} takes connections, but does not answer as a Kafka broker"):
            create_topics(other, {"a": 1})


def test_one_server_of_several_is_enough(bootstrap_servers: str) -> None:
    servers = f"127.0.0.1:{ports.free_ports(1)[0]}, {bootstrap_servers}"
    assert create_topics(servers, {"several": 1}) == {"several": 1}
