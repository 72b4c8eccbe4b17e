"""The commands ``sensorloop kafka …``: about the Kafka that was named, else about the local one."""

from __future__ import annotations

import dataclasses
from typing import Any

from dags.settings import Settings, external_kafka
from dags.terminal import progress, say
from streaming import broker
from streaming.servers import reach


def start(settings: Settings) -> dict[str, Any]:
    """Have a Kafka that answers: start the local one, unless another was named.

    Raises:
        ClientError: another was named, and cannot be reached.
        BrokerError: see :func:`streaming.broker.start`.
    """
    external = external_kafka(settings)
    if external:
        reach(settings.kafka)
        say(f"Kafka at {external} is used; none is started.")
        return {"bootstrap_servers": external, "started": False}
    with progress("Starting Kafka") as show:
        status, started = broker.start(settings.broker, home=settings.home, progress=show)
    say(f"{'Kafka runs' if started else 'Kafka was running already'} at {status.bootstrap_servers} (pid {status.pid}).")
    return {"bootstrap_servers": status.bootstrap_servers, "pid": status.pid, "started": started}


def stop(settings: Settings) -> dict[str, Any]:
    """Stop the local one."""
    stopped = broker.stop(settings.home)
    say("Kafka stopped." if stopped else "Kafka was not running.")
    return {"stopped": stopped}


def status(settings: Settings) -> dict[str, Any]:
    """Whether it runs.

    Raises:
        ClientError: another than the local one was named, and cannot be reached.
    """
    external = external_kafka(settings)
    if external:
        reach(settings.kafka)
        say(f"Kafka at {external} can be reached. It is used, not the local one.")
        return {"running": True, "bootstrap_servers": external}
    found = broker.status(settings.home)
    if found is None:
        say("Kafka is not running. Start it with 'sensorloop kafka start'.")
        return {"running": False}
    say(f"Kafka {'answers' if found.answers else 'does not answer'} at {found.bootstrap_servers}: pid {found.pid}, "
        f"up {found.uptime}, {found.memory_bytes / 2**20:.0f} MiB, cluster {found.cluster_id}.")  # fmt: skip
    return {"running": True, **dataclasses.asdict(found)}
