"""The settings of this package; ``sensorloop.toml`` has a section for each class."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from streaming.sensors import SENSORS

_LOG_RETENTION = timedelta(days=30)
"""Delta's default for its log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerSettings:
    """The local broker."""

    host: str = "127.0.0.1"
    """Address to listen on; anybody who reaches it may read and write, so not beyond this machine."""
    port: int = 29092
    """Port for clients: beside Kafka's usual 9092, not on it."""
    controller_port: int = 29093
    """Port on which the process talks to itself as its own controller."""
    heap_mb: int = 512
    """Java's heap in MiB. A million batches an hour need less than half of it."""
    start_timeout: timedelta = timedelta(seconds=90)
    """Until the broker answers; 3 s on an idle machine, more after a crash, when it checks its files."""
    stop_grace: timedelta = timedelta(seconds=20)
    """Between SIGTERM and SIGKILL; a clean stop takes half a second and spares the next start the checking."""

    def __post_init__(self) -> None:
        if not (0 < self.port < 65_536 and 0 < self.controller_port < 65_536) or self.port == self.controller_port:
            msg = (
                f"[broker] port = {self.port}, controller_port = {self.controller_port}: "
                "they must be two different numbers from 1 to 65535"
            )
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaSettings:
    """Where Kafka is, and what its topics are called."""

    bootstrap_servers: str = ""
    """host:port, comma-separated. Empty: the local broker's, see [broker]. KAFKA_BOOTSTRAP_SERVERS overrides it."""
    group_id: str = "sensorloop-ingest"
    """Consumer group of the ingesting processes; that of labels is called so with ``-`` and their topic after it."""
    batches_topic: str = "sensor.batches"
    """What phones measured."""
    labels_topic: str = "sensor.labels"
    """What somebody said later about an interval of it."""
    deadletter_topic: str = "sensor.deadletter"
    """Batches that could not be decoded, with their coordinates and the reason."""
    bootstrap_timeout: timedelta = timedelta(seconds=30)
    """How long to look for Kafka before giving up."""
    session_timeout: timedelta = timedelta(seconds=30)
    """A consumer that Kafka has not heard of for so long loses its partitions. Brokers allow 6 s to 30 min by default."""
    partitions: int = 4
    """Partitions of a topic that we create; a consumer more than this has nothing to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSettings:
    """How signals are cut."""

    length: timedelta = timedelta(seconds=5)
    """Duration of a window. 5 s holds several steps and a braking, and is what the SHL literature uses."""
    hop: timedelta = timedelta(seconds=2.5)
    """From one window's start to the next; divides the length. Half a window doubles the training data at no new recording."""
    rate_hz: int = 100
    """Samples per second of the grid that all phones are brought to; SHL's rate."""
    sensors: tuple[str, ...] = ("accelerometer", "gyroscope", "magnetometer", "pressure")
    """Sensors kept, by name; a batch's other sensors are counted and left out."""
    lateness: timedelta = timedelta(seconds=10)
    """How far behind its session's newest sample a batch may be and still count. Reordered uploads are within seconds."""
    idle_timeout: timedelta = timedelta(minutes=15)
    """A session that sent nothing for so long (on our clock) is closed, so that a dead phone does not hold its partition's offset back."""
    max_gap: timedelta = timedelta(milliseconds=300)
    """Between two samples further apart than this there is a gap (NaN), not a straight line."""
    max_ahead: timedelta = timedelta(days=1)
    """A batch that claims to be further ahead of its Kafka record's timestamp is refused; clocks are wrong by hours, not by years."""
    min_coverage: float = 0.8
    """Share of a window's grid below which it is counted as sparse. It is published all the same."""

    def __post_init__(self) -> None:
        if self.hop <= timedelta(0) or self.length % self.hop:
            msg = f"[windows] hop = {self.hop} must divide length = {self.length}, so that each sample is in equally many windows"
            raise ValueError(msg)
        if self.hop_ns * self.rate_hz % 1_000_000_000:
            msg = f"[windows] hop × rate_hz must be a whole number of samples, not {self.hop} × {self.rate_hz} Hz"
            raise ValueError(msg)
        if self.lateness < self.max_gap:
            msg = (
                f"[windows] lateness = {self.lateness} must be at least max_gap = {self.max_gap}: "
                "the samples behind a window's end decide its last values"
            )
            raise ValueError(msg)
        unknown = [name for name in self.sensors if name not in SENSORS]
        if unknown or not self.sensors:
            msg = f"[windows] sensors = {list(self.sensors)}: known are {', '.join(SENSORS)}"
            raise ValueError(msg)

    @property
    def length_ns(self) -> int:
        """``length`` in nanoseconds."""
        return _ns(self.length)

    @property
    def hop_ns(self) -> int:
        """``hop`` in nanoseconds."""
        return _ns(self.hop)

    @property
    def max_gap_ns(self) -> int:
        """``max_gap`` in nanoseconds."""
        return _ns(self.max_gap)

    @property
    def grid_size(self) -> int:
        """Values per channel and window."""
        return self.length_ns * self.rate_hz // 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class LakeSettings:
    """Where the tables are."""

    uri: str = "lake"
    """Folder of the Delta tables, a relative path being below SENSORLOOP_HOME; or ``s3://bucket/prefix``."""
    compression_level: int = 1
    """zstd level of the signal columns; 1 because BYTE_STREAM_SPLIT has already done most of the work."""
    file_bytes: int = 128 << 20
    """Size that compaction brings files to, in bytes. Larger ones gain a reader little and cost the compaction memory."""
    vacuum_retention: timedelta = timedelta(days=7)
    """How long files stay that newer versions do without: so long a version can be read, and so long a training run may pin one."""
    s3_endpoint: str = ""
    """URL of an S3-compatible store; empty: Amazon's. It must support conditional puts (If-None-Match), as AWS, MinIO, R2 and Ceph do."""
    s3_region: str = ""
    """Region of the bucket; empty: as AWS_REGION or the AWS configuration says."""
    s3_access_key_id: str = ""
    """Empty: AWS_ACCESS_KEY_ID, or the role of the machine."""
    s3_secret_access_key: str = ""
    """Where the secret is: ``env:NAME`` or ``file:PATH``. Empty: AWS_SECRET_ACCESS_KEY, or the role of the machine."""
    s3_session_token: str = ""
    """Where the token of a temporary key is, likewise."""

    def __post_init__(self) -> None:
        if self.file_bytes < 1 or not timedelta(0) <= self.vacuum_retention <= _LOG_RETENTION:
            msg = (
                f"[lake] file_bytes = {self.file_bytes}, vacuum_retention = {self.vacuum_retention}: at least 1, and from nothing "
                f"to {_LOG_RETENTION.days} days, after which the log forgets when a file was replaced"
            )
            raise ValueError(msg)

    def __str__(self) -> str:
        return self.uri


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestSettings:
    """When a consumer commits, and how much it holds."""

    commit_interval: timedelta = timedelta(seconds=30)
    """Longest time a closed window waits to become visible."""
    commit_rows: int = 2_000
    """Closed windows that make a commit due before its time; about 30 MB of signals."""
    max_poll_records: int = 5_000
    """Records per poll; kafka-python is fastest with large polls."""
    max_batch_bytes: int = 1_048_576
    """A larger batch is refused; Kafka's own default limit."""
    max_batch_samples: int = 200_000
    """A batch with more samples in one block is refused: no phone measures so much in a second."""


def _ns(duration: timedelta) -> int:
    return (duration.days * 86_400 + duration.seconds) * 1_000_000_000 + duration.microseconds * 1_000
