"""A cluster of three brokers on this machine, each a process of its own: for the tests and the bench of faults.

Every node is broker and controller, every record has three copies, two of which a producer waits for. So any one broker may be
killed without anybody waiting for long, and with two of them gone nothing is answered. Ports are those that are free.

::

    <home>/1/kafka/     a node's folder, as :mod:`streaming.broker` has it
    <home>/2/kafka/
    <home>/3/kafka/
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from streaming import broker, broker_data, ports, process
from streaming.errors import BrokerError
from streaming.settings import BrokerSettings

_NODES = (1, 2, 3)
_PROBE_S = 1.0
_POLL_S = 0.1


class Cluster:
    """Three brokers; use it in a ``with``.

    Args:
        home: their folders are in it.
        heap_mb: Java's heap of each, MiB; with it a broker takes some 350 MB.
        extra: lines for each broker's settings.

    Raises:
        BrokerError: they did not start.
    """

    def __init__(self, home: Path, *, heap_mb: int = 256, extra: str = "") -> None:
        self._home = home
        taken = ports.free_ports(2 * len(_NODES))
        self._controllers = taken[len(_NODES) :]
        self._settings = {
            node: BrokerSettings(port=port, controller_port=controller, heap_mb=heap_mb)
            for node, port, controller in zip(_NODES, taken, self._controllers, strict=False)
        }
        self._environ = broker.java_environment(os.environ)
        self._cluster_id = broker_data.new_cluster_id()
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda node: self._format(node, extra), _NODES))
            self.start()
            self._wait_groups()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """All of them, ``host:port``, comma-separated."""
        return ",".join(f"{each.host}:{each.port}" for each in self._settings.values())

    def start(self, nodes: Collection[int] = _NODES) -> None:
        """Start those that do not run, and wait until all three are members that answer."""
        for node in nodes:
            settings, folder = self._settings[node], self._folder(node)
            process.stop(folder / "broker.pid")  # what a killed one left behind
            java = broker.java_command(settings, folder, self._environ)
            service = broker.broker_service(settings, folder, java, self._environ, die_with_parent=True)
            process.start(service, ready=lambda: True, timeout=settings.start_timeout)
        self._wait(_NODES)

    def kill(self, nodes: Collection[int] = _NODES) -> None:
        """SIGKILL, as the machine's power would."""
        for node in nodes:
            found = process.find(self._folder(node) / "broker.pid")
            if found is not None:
                for member in reversed(process.family(found)):
                    _kill(member)

    def stop(self) -> None:
        """End them all."""
        for node in _NODES:
            # Two of three that are gone let the third wait for its grace in vain; nobody needs what they have.
            self.kill([node])
            process.stop(self._folder(node) / "broker.pid")

    def coordinator(self, group: str) -> int:
        """The node that coordinates a consumer group: the leader of the partition that keeps its offsets."""
        with KafkaAdminClient(bootstrap_servers=self.bootstrap_servers.split(",")) as admin:
            (topic,) = admin.describe_topics(["__consumer_offsets"])
        number = _java_hash(group) % len(topic["partitions"])
        return next(int(each["leader_id"]) for each in topic["partitions"] if each["partition_index"] == number)

    def _format(self, node: int, extra: str) -> None:
        settings, folder = self._settings[node], self._folder(node)
        java = broker.java_command(settings, folder, self._environ)

        def text(data: str) -> str:
            listen = (settings.host, settings.port, settings.controller_port)
            return broker_data.properties(*listen, data=data, node=node, controllers=self._controllers) + extra

        environ: Mapping[str, str] = self._environ
        broker_data.format_data(folder, java, text(broker_data.PART), env=environ, cluster_id=self._cluster_id)
        (folder / broker.PROPERTIES).write_text(text(broker_data.DATA), encoding="ascii")

    def _folder(self, node: int) -> Path:
        return self._home / str(node) / "kafka"

    def _wait(self, nodes: Collection[int]) -> None:
        deadline = time.monotonic() + max(each.start_timeout.total_seconds() for each in self._settings.values())
        while time.monotonic() < deadline:
            if all(self._answers(node) for node in nodes) and self._members() == set(nodes):
                return
            time.sleep(_POLL_S)
        logs = "\n".join(process.log_tail(self._folder(node) / "broker.log") for node in nodes)
        msg = f"The brokers in {self._home} are not one cluster. The ends of their logs:\n{logs}"
        raise BrokerError(msg)

    def _wait_groups(self) -> None:
        """The first who asks for a group's coordinator has its topic made, and would wait for that for the better part of a minute."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(KafkaError),
                KafkaAdminClient(
                    bootstrap_servers=self.bootstrap_servers.split(","), request_timeout_ms=5_000
                ) as admin,
            ):
                admin.describe_groups(["none"])
                return
            time.sleep(_POLL_S)

    def _answers(self, node: int) -> bool:
        settings = self._settings[node]
        return broker.answers(settings.host, settings.port, timeout_s=_PROBE_S)

    def _members(self) -> set[int]:
        try:
            with KafkaAdminClient(
                bootstrap_servers=self.bootstrap_servers.split(","),
                bootstrap_timeout_ms=5_000,
                request_timeout_ms=5_000,
            ) as admin:
                found = admin.describe_cluster()["brokers"]
        except KafkaError:
            return set()
        return {int(each["broker_id"]) for each in found if not each["is_fenced"]}


def _java_hash(text: str) -> int:
    """``Utils.abs(text.hashCode())``, by which Kafka spreads groups."""
    found = 0
    for unit in text.encode("utf-16-be")[1::2]:
        found = (31 * found + unit) & 0xFFFF_FFFF
    return (found if found < 1 << 31 else found - (1 << 32)) & 0x7FFF_FFFF


def _kill(member: psutil.Process) -> None:
    try:
        member.send_signal(signal.SIGKILL)
        member.wait(10)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        pass
