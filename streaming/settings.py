"""The settings of this package; ``sensorloop.toml`` has a section for each class."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from streaming.sensors import SENSORS

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
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
    security_protocol: str = "PLAINTEXT"
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL, as the brokers' listener has it. SASL without SSL shows batches to the whole network."""
    ssl_ca_file: str = ""
    """PEM file of who signed the brokers' certificates; empty: those that the system trusts."""
    ssl_certificate_file: str = ""
    """PEM file of our own certificate, where brokers ask for one."""
    ssl_key_file: str = ""
    """PEM file of its key."""
    ssl_key_password: str = ""
    """Where the password of that file is: ``env:NAME`` or ``file:PATH``; empty: it has none."""
    ssl_check_hostname: bool = True
    """Whether a broker's certificate must be for the name it is called by. Without it anybody with a certificate can be the broker."""
    sasl_mechanism: str = "SCRAM-SHA-512"
    """SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN, with SASL_… only. PLAIN shows the broker the password."""
    sasl_username: str = ""
    """Who we are to Kafka."""
    sasl_password: str = ""
    """Where the password is: ``env:NAME`` or ``file:PATH``."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("security_protocol", self.security_protocol, _PROTOCOLS),
            ("sasl_mechanism", self.sasl_mechanism, _MECHANISMS),
        ):
            if value not in known:
                msg = f"[kafka] {name} = {value!r}: known are {', '.join(known)}"
                raise ValueError(msg)
        if self.sasl and not (self.sasl_username and self.sasl_password):
            msg = f"[kafka] security_protocol = {self.security_protocol} needs sasl_username and sasl_password"
            raise ValueError(msg)
        if bool(self.ssl_certificate_file) != bool(self.ssl_key_file):
            msg = "[kafka] ssl_certificate_file and ssl_key_file belong together: set both, or neither"
            raise ValueError(msg)

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.security_protocol in {"SSL", "SASL_SSL"}

    @property
    def sasl(self) -> bool:
        """Whether we say who we are."""
        return self.security_protocol.startswith("SASL_")


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
        if not timedelta(0) < self.hop <= self.length or self.length % self.hop:
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
    """Longest time a closed window waits for its commit."""
    commit_idle: timedelta = timedelta(seconds=5)
    """When nothing has come for so long, what has closed is committed without waiting for more."""
    commit_rows: int = 2_000
    """Closed windows that make a commit due before its time; about 30 MB of signals."""
    commit_bytes: int = 64 << 20
    """Bytes of their signals that do so, where windows are long or sensors many."""
    memory_budget: int = 1 << 30
    """Most bytes of batches and windows held at a time. Kafka's client has up to 50 MB on top, the process itself 200 MB.
    An open window holds some 15 s of its session, 10,000 phones at 100 Hz a gigabyte."""
    longest_retry: timedelta = timedelta(minutes=1)
    """Longest pause between tries to write a lake that cannot be written (a full disk): 1 s, then 2 s, 4 s, …"""
    stop_within: timedelta = timedelta(seconds=10)
    """After SIGTERM: what is not published by then is read again by the next consumer. Kubernetes kills after 30 s by default."""
    metrics_host: str = "127.0.0.1"
    """Address that Prometheus' metrics are served at; anybody who reaches it may read them."""
    metrics_port: int = 0
    """Its port; 0: none are served. With --workers the first worker has this port, the second the next, and so on."""
    max_poll_records: int = 5_000
    """Records per poll; kafka-python is fastest with large polls."""
    max_batch_bytes: int = 1_048_576
    """A larger batch is refused; Kafka's own default limit."""
    max_batch_samples: int = 200_000
    """A batch with more samples in one block is refused: no phone measures so much in a second."""
    accept_other_topic: bool = False
    """Go on where the lake's offsets say, although Kafka's topic is not the one that they are of (its id is another). Only for a mirror
    that keeps every record at its offset, and for one start of all consumers: each notes the new topic of its partitions at once."""

    def __post_init__(self) -> None:
        if min(self.commit_rows, self.commit_bytes, self.max_poll_records) < 1 or self.memory_budget < 1 << 20:
            msg = (
                f"[ingest] commit_rows = {self.commit_rows}, commit_bytes = {self.commit_bytes}, max_poll_records = "
                f"{self.max_poll_records}, memory_budget = {self.memory_budget}: at least 1, and 1 MiB of memory"
            )
            raise ValueError(msg)
        if min(self.commit_interval, self.commit_idle, self.longest_retry, self.stop_within) <= timedelta(0):
            msg = (
                f"[ingest] commit_interval = {self.commit_interval}, commit_idle = {self.commit_idle}, longest_retry = "
                f"{self.longest_retry}, stop_within = {self.stop_within}: each must be longer than nothing"
            )
            raise ValueError(msg)
        if not 0 <= self.metrics_port < 65_536:
            msg = f"[ingest] metrics_port = {self.metrics_port}: a number from 1 to 65535, or 0 for none"
            raise ValueError(msg)


def _ns(duration: timedelta) -> int:
    return (duration.days * 86_400 + duration.seconds) * 1_000_000_000 + duration.microseconds * 1_000
