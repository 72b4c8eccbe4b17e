"""``sensorloop ingest`` as a process, phones that send to it, and what is then in its lake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import kafka
import polars as pl

from streaming.lake import scan_windows
from streaming.settings import KafkaSettings
from streaming.topics import create_topics
from streaming.verify import verify
from streaming.wire import encode

from .sessions import batch

ROOT = Path(__file__).parents[2]

_STOPPED_AT = """
import os, signal, sys
from streaming.faults import hooked
import sensorloop
calls = iter(range(1000))
def stopped(reached):
    if reached == os.environ["POINT"] and next(calls) == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
with hooked(stopped):
    sys.argv = ["sensorloop", "ingest"]
    sensorloop.main()
"""


class Consumer:
    """``sensorloop ingest`` as a process."""

    def __init__(
        self,
        kafka_settings: KafkaSettings,
        home: Path,
        *arguments: str,
        point: str = "",
        program: str = "",
        **settings: str,
    ) -> None:
        self.log = home / f"{uuid.uuid4().hex[:6]}.log"
        home.mkdir(parents=True, exist_ok=True)
        program = _STOPPED_AT if point else program
        argv = ["-c", program] if program else ["-m", "sensorloop", "ingest", *arguments]
        self._out = self.log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, *argv], stdout=subprocess.PIPE, stderr=self._out, text=True, cwd=home,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "SENSORLOOP_HOME": str(home), "OMP_NUM_THREADS": "1",
                "PYTHONFAULTHANDLER": "1", "POINT": point,
                **environment(kafka_settings), **{f"SENSORLOOP_{name}": value for name, value in settings.items()},
            },
        )  # fmt: skip

    def told(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_told(self, what: str, timeout: float = 60) -> None:
        until(lambda: what in self.told() or self.process.poll() is not None, timeout)
        assert what in self.told(), self.told()

    def stop(self, timeout: float = 30) -> dict[str, int]:
        """SIGTERM, and what it then says it has counted."""
        self.process.send_signal(signal.SIGTERM)
        return self.result(timeout)

    def result(self, timeout: float = 30) -> dict[str, int]:
        out, _ = self.process.communicate(timeout=timeout)
        self._out.close()
        assert self.process.returncode == 0, self.told()
        return dict(json.loads(out.splitlines()[-1]))

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._out.close()


def environment(settings: KafkaSettings) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "SENSORLOOP_KAFKA__GROUP_ID": settings.group_id,
        "SENSORLOOP_KAFKA__BATCHES_TOPIC": settings.batches_topic,
        "SENSORLOOP_KAFKA__DEADLETTER_TOPIC": settings.deadletter_topic,
        "SENSORLOOP_KAFKA__SESSION_TIMEOUT": "PT6S",
        "SENSORLOOP_WINDOWS__LENGTH": "PT2S",
        "SENSORLOOP_WINDOWS__HOP": "PT1S",
        "SENSORLOOP_WINDOWS__RATE_HZ": "20",
        "SENSORLOOP_WINDOWS__LATENESS": "PT3S",
        "SENSORLOOP_WINDOWS__SENSORS": '["accelerometer"]',
        "SENSORLOOP_INGEST__COMMIT_INTERVAL": "PT2S",
        "SENSORLOOP_INGEST__COMMIT_IDLE": "PT1S",
    }


def until(true: Callable[[], bool], timeout: float = 60) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + timeout
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)


def topics(bootstrap_servers: str, partitions: int = 4) -> KafkaSettings:
    name = uuid.uuid4().hex[:8]
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers,
        group_id=f"g-{name}",
        batches_topic=f"b-{name}",
        deadletter_topic=f"x-{name}",
    )
    create_topics(bootstrap_servers, {settings.batches_topic: partitions, settings.deadletter_topic: 1})
    return settings


class Phones:
    """Phones that send a batch each a second of theirs, as fast as :meth:`send` is called."""

    def __init__(self, settings: KafkaSettings, count: int, partitions: int = 4) -> None:
        self.partitions = partitions
        self.topic, self.count, self.second = settings.batches_topic, count, 0
        self.producer = kafka.KafkaProducer(
            bootstrap_servers=settings.bootstrap_servers, acks="all", enable_idempotence=True, linger_ms=5
        )

    def send(self, *, last: bool = False) -> None:
        for phone in range(self.count):
            name = f"phone-{phone}"
            value = encode(batch(self.second, session=f"s-{name}", device=name, end=last))
            self.producer.send(self.topic, value=value, key=name.encode(), partition=phone % self.partitions)
        self.second += 1

    def close(self) -> None:
        self.producer.flush()
        self.producer.close()

    @property
    def samples(self) -> int:
        return self.second * self.count * 25


def rows(home: Path) -> pl.DataFrame:
    return scan_windows(str(home / "lake")).select("window_id", "kafka_partition", "acc_fresh").collect()


def seen(home: Path) -> int:
    try:
        return int(rows(home)["acc_fresh"].sum())
    except Exception:  # noqa: BLE001 - there is no table yet
        return 0


def settled(home: Path, samples: int) -> None:
    """Every sample is there, once, and the lake proves itself."""
    found = rows(home)
    assert found["window_id"].is_unique().all()
    assert found["acc_fresh"].sum() == samples
    proof = verify(str(home / "lake"))
    assert proof.problems == ()
    assert proof.absent_offsets == 0
