"""Kafka topics: made once, found again afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from streaming.errors import ClientError
from streaming.security import client_options
from streaming.servers import Kafka, reach, settings_of, unreachable

_TIMEOUT_MS = 30_000


def create_topics(kafka: Kafka, topics: Mapping[str, int]) -> dict[str, int]:
    """Have these topics, making those that are missing, and wait until each partition has a leader.

    A topic that is there keeps its number of partitions: adding some would send a device's later batches to another
    partition, out of order with its earlier ones.

    Args:
        kafka: where it is.
        topics: name → partitions. Replication is the cluster's default.

    Returns:
        Name → the partitions that the topic really has.

    Raises:
        ClientError: Kafka cannot be reached, or refuses.
    """
    if not topics:
        return {}
    try:
        with admin_client(kafka) as admin:
            there = set(admin.list_topics())
            missing = {name: {"num_partitions": count} for name, count in topics.items() if name not in there}
            if missing:
                answer = admin.create_topics(missing, timeout_ms=_TIMEOUT_MS, raise_errors=False)
                for topic in answer["topics"]:
                    _raise_for(topic)
            admin.wait_for_topics(list(topics), timeout_ms=_TIMEOUT_MS)
            return {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(list(topics))}
    except (KafkaError, OSError) as error:
        msg = f"Topics {', '.join(topics)} at {settings_of(kafka).bootstrap_servers}: {error}"
        raise ClientError(msg) from error


def admin_client(kafka: Kafka) -> Any:
    """kafka-python's client for asking and arranging; to be used in a ``with``.

    Raises:
        ClientError: Kafka cannot be reached, or is none.
    """
    settings = settings_of(kafka)
    server = reach(settings)
    try:
        options = client_options(settings) | {"bootstrap_servers": server, "bootstrap_timeout_ms": _TIMEOUT_MS}
        return KafkaAdminClient(**options)
    except KafkaError as error:
        reason = f"{server} takes connections, but does not answer as a Kafka broker: {error}"
        raise unreachable(settings.bootstrap_servers, reason) from error


def _raise_for(topic: Mapping[str, object]) -> None:
    error = for_code(topic["error_code"])
    # Somebody else may have been quicker.
    if topic["error_code"] and error is not TopicAlreadyExistsError:
        msg = f"{topic['name']}: {topic['error_message']}"
        raise error(msg)
