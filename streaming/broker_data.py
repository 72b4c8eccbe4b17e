"""The local broker's folder: its settings as Kafka reads them, and whose data is in it.

Paths in the settings are relative to the folder, which is where the broker runs, so that any home will do: Java's
properties know neither a comma nor an é in a path.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from streaming.errors import BrokerError, ForeignData

DATA = "data"
"""Kafka's own folder, below the broker's."""

PART = "data.part"
"""The same while it is being formatted."""

_META = "meta.properties"
_CLUSTER = "cluster-id"
_FORMAT_TIMEOUT_S = 120


def properties(
    host: str, port: int, controller_port: int, *, data: str = DATA, node: int = 1, controllers: Sequence[int] = ()
) -> str:
    """A broker's settings, as the text of ``server.properties``.

    Args:
        host: where it listens.
        port: for clients.
        controller_port: for the controllers among themselves.
        data: its folder of data.
        node: its number in the cluster, from 1.
        controllers: the controller ports of all nodes, in order, this one's included; none: it is the only one.
    """
    client = f"PLAINTEXT://{host}:{port}"
    controller = f"{host}:{controller_port}"
    voters = ",".join(f"{number}@{host}:{each}" for number, each in enumerate(controllers or [controller_port], 1))
    # Of three every record has three copies, two of which are waited for: any one broker may die.
    copies = max(1, len(controllers))
    in_sync = copies // 2 + 1
    return f"""\
# Written by sensorloop at each start.
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners={client},CONTROLLER://{controller}
advertised.listeners={client}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
# As many as there are nodes; mostly this is the only one.
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.min.isr=1
# 50 partitions of bookkeeping each are for large clusters; here they only cost start-up time and files.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
# A misspelt topic is an error, not a new topic.
auto.create.topics.enable=false
# The first consumer of a group need not wait for others.
group.initial.rebalance.delay.ms=0
# After a crash the controller waits until the broker it knew is surely gone; the default of 9 s is for real networks.
broker.session.timeout.ms=5000
broker.heartbeat.interval.ms=1000
# Nothing is ever deleted by age or size: a recording that was replayed stays until 'make clean'.
log.retention.ms=-1
log.retention.bytes=-1
# The cleaner's buffer is taken from the heap at once; 128 MiB is for many large compacted topics.
log.cleaner.dedupe.buffer.size=16777216
"""


def our_cluster(folder: Path) -> str | None:
    """The id of the cluster whose data is there; None if there is no data yet.

    Raises:
        ForeignData: there is data, but it is not what we formatted.
    """
    data, known = folder / DATA, folder / _CLUSTER
    if not data.exists() or (data.is_dir() and not any(data.iterdir())):
        return None
    ours = known.read_text(encoding="ascii").strip() if known.exists() else None
    found = cluster_id_of(folder)
    if found is not None and found == ours:
        return ours
    whose = "no Kafka cluster" if found is None else f"Kafka cluster {found}"
    expected = "we have formatted none here" if ours is None else f"ours is {ours}"
    msg = (
        f"{data} has the data of {whose}, but {expected} ({known}). It has been left alone. Move it away, "
        "or choose another home with SENSORLOOP_HOME."
    )
    raise ForeignData(msg)


def format_data(
    folder: Path, java: Sequence[str], settings: str, *, env: Mapping[str, str], cluster_id: str | None = None
) -> str:
    """Make a new, empty data folder: formatted under another name, then renamed, so that there is none half formatted.

    Args:
        folder: the broker's.
        java: the command up to the main class.
        settings: :func:`properties` with ``data=PART``.
        env: Java's environment.
        cluster_id: of the cluster that it joins; a new one if None.

    Returns:
        The cluster's id.

    Raises:
        BrokerError: Kafka's tool refused.
    """
    cluster_id = cluster_id or new_cluster_id()
    part = folder / PART
    shutil.rmtree(part, ignore_errors=True)
    temporary = folder / "format.properties"
    temporary.write_text(settings, encoding="ascii")
    command = (*java, "kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", temporary.name)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=dict(env),
            capture_output=True,
            text=True,
            timeout=_FORMAT_TIMEOUT_S,
            check=False,
        )
        failure = done.stdout + done.stderr if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure is not None:
        msg = f"Kafka's data folder {folder / DATA} cannot be formatted: {failure.strip()}"
        raise BrokerError(msg)
    temporary.unlink()
    (folder / _CLUSTER).write_text(f"{cluster_id}\n", encoding="ascii")
    part.rename(folder / DATA)
    return cluster_id


def cluster_id_of(folder: Path) -> str | None:
    """The id of the cluster whose data is in the broker's folder, whoever's it is; None if there is none."""
    return read_properties(folder / DATA / _META).get("cluster.id")


def new_cluster_id() -> str:
    """A random UUID in Kafka's notation: URL-safe base64 without padding, and no leading dash (it would be an option)."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")).startswith("-"):
        pass
    return text


def read_properties(path: Path) -> dict[str, str]:
    """A Java properties file as Kafka and we write it; empty if there is none."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}
