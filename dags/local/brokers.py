"""Apache Kafka as ``docker/compose.yaml`` has it, without its image: our own jars, and the settings of the file.

The image makes ``server.properties`` of its variables: ``KAFKA_LOG_DIRS`` becomes ``log.dirs``. So do we.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from streaming import broker, broker_data, process
from streaming.settings import BrokerSettings

_NO_SETTINGS = frozenset({"KAFKA_HEAP_OPTS", "KAFKA_OPTS", "KAFKA_JVM_PERFORMANCE_OPTS", "KAFKA_LOG4J_OPTS"})
_PREFIX = "KAFKA_"
_HEAP_MB = 256
"""A third of what a broker takes; the file's heap is for a cluster."""


def properties(environment: Mapping[str, str], *, data: str) -> str:
    """``server.properties`` that the image would make of these variables.

    Args:
        environment: of the broker's service.
        data: its folder of data, instead of the one in the image.
    """
    settings = {
        _name(variable): value
        for variable, value in environment.items()
        if variable.startswith(_PREFIX) and variable not in _NO_SETTINGS
    }
    # As everywhere on one machine: 50 partitions of bookkeeping each only cost start-up time.
    small = {"offsets.topic.num.partitions": "4", "transaction.state.log.num.partitions": "4"}
    small |= {"group.initial.rebalance.delay.ms": "0", "log.cleaner.dedupe.buffer.size": "16777216"}
    return "".join(f"{name}={value}\n" for name, value in (small | settings | {"log.dirs": data}).items())


def service(name: str, environment: Mapping[str, str], folder: Path, *, log: Path, pid_file: Path) -> process.Service:
    """A broker that is ready to be started, its data formatted.

    Args:
        name: for messages.
        environment: of its service in the file, translated; ``CLUSTER_ID`` and ``KAFKA_…`` of it count.
        folder: the broker's; new.
        log: where it writes.
        pid_file: where it is found again.

    Raises:
        BrokerError: its data cannot be formatted, or its jars cannot be had.
    """
    java_environ = broker.java_environment(environment)
    java = broker.java_command(BrokerSettings(heap_mb=_HEAP_MB), folder, java_environ)
    text = properties(environment, data=broker_data.PART)
    broker_data.format_data(folder, java, text, env=java_environ, cluster_id=environment["CLUSTER_ID"])
    (folder / broker.PROPERTIES).write_text(properties(environment, data=broker_data.DATA), encoding="utf-8")
    return process.Service(
        name=name, argv=(*java, "kafka.Kafka", broker.PROPERTIES), log=log, pid_file=pid_file, env=java_environ, cwd=folder,
        grace=timedelta(seconds=10), die_with_parent=True,
    )  # fmt: skip


def _name(variable: str) -> str:
    """``KAFKA_A_B`` is ``a.b``; two underscores stand for one, three for a dash."""
    rest = variable.removeprefix(_PREFIX).lower()
    return rest.replace("___", "-").replace("__", "\0").replace("_", ".").replace("\0", "_")
