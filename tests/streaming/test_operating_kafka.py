"""Ingestion beside a real Kafka that is killed, rearranged and full of members: real processes, real signals."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import polars as pl
import psutil
import pytest

from streaming import broker, ports
from streaming.client import KafkaSource
from streaming.deadletters import letters
from streaming.ingest import Ingest
from streaming.labels_table import LabelsTable
from streaming.lake import scan_windows, valid_through
from streaming.letters import KafkaDeadLetters
from streaming.progress import total
from streaming.settings import BrokerSettings, IngestSettings, KafkaSettings, LakeSettings
from streaming.verify import verify
from streaming.windows import WindowsTable

from .consumers import ROOT, Consumer, Phones, environment, rows, seen, settled, topics, until
from .sessions import SETTINGS

pytestmark = pytest.mark.broker


def test_sigterm_flushes_commits_and_ends_and_nothing_is_read_twice(
    bootstrap_servers: str, tmp_path: Path, started: list[Consumer]
) -> None:
    settings = topics(bootstrap_servers)
    phones = Phones(settings, 4)
    for second in range(20):
        phones.send(last=second == 19)
    phones.close()
    one = Consumer(settings, tmp_path, INGEST__COMMIT_INTERVAL="PT1H", INGEST__COMMIT_IDLE="PT1H")
    started.append(one)
    until(lambda: "Committed" in one.told(), 60)
    began = time.monotonic()
    counted = one.stop()
    assert time.monotonic() - began < 10
    assert counted["records"] == 80
    settled(tmp_path, phones.samples)
    again = Consumer(settings, tmp_path, "--until-caught-up")
    started.append(again)
    assert again.result(60).get("records", 0) == 0
    assert valid_through(str(tmp_path / "lake")).overall is not None


def test_a_zombie_is_refused_and_stops_with_a_sentence(
    bootstrap_servers: str, tmp_path: Path, started: list[Consumer]
) -> None:
    """Stopped with its files written, and continued when another has taken over and committed."""
    settings = topics(bootstrap_servers)
    phones = Phones(settings, 4)
    for _ in range(20):
        phones.send()
    phones.producer.flush()
    zombie = Consumer(settings, tmp_path, point="publish.files")
    started.append(zombie)
    until(lambda: psutil.Process(zombie.process.pid).status() == psutil.STATUS_STOPPED)
    assert seen(tmp_path) == 0
    owner = Consumer(settings, tmp_path)
    started.append(owner)
    until(lambda: seen(tmp_path) > 0)
    phones.send(last=True)
    phones.close()
    until(lambda: seen(tmp_path) == phones.samples)
    zombie.process.send_signal(signal.SIGCONT)
    zombie.process.communicate(timeout=30)
    assert zombie.process.returncode == 3, zombie.told()
    assert "error: Another consumer has committed" in zombie.told()
    assert "Traceback" not in zombie.told()
    owner.stop()
    settled(tmp_path, phones.samples)


class Member:
    """A consumer on a thread of its own: real to Kafka, and quick to come and go."""

    def __init__(self, settings: KafkaSettings, home: Path) -> None:
        self.stopping, self.crashed = threading.Event(), threading.Event()
        self.failure: BaseException | None = None
        self.ingest: Ingest | None = None
        self.settings, self.home = settings, home
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        ingest = IngestSettings(commit_interval=timedelta(seconds=2), commit_idle=timedelta(seconds=1))
        source, dead = KafkaSource(self.settings, ingest), KafkaDeadLetters(self.settings)
        table = WindowsTable(LakeSettings(uri=str(self.home / "lake")), SETTINGS.sensors)
        self.ingest = Ingest(source=source, table=table, dead_letters=dead, windows=SETTINGS, settings=ingest)
        try:
            self.ingest.run(stop=self._stop)
        except InterruptedError:
            pass
        except BaseException as failure:  # noqa: BLE001 - the test looks at it
            self.failure = failure
        finally:
            source.close()
            dead.close()

    def _stop(self) -> bool:
        if self.crashed.is_set():
            raise InterruptedError
        return self.stopping.is_set()

    def leave(self, *, crash: bool) -> None:
        (self.crashed if crash else self.stopping).set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kafka-python, closed while it connects
def test_a_storm_of_rebalances_loses_and_doubles_nothing(bootstrap_servers: str, tmp_path: Path) -> None:
    """Every second a consumer joins and one leaves, half of them without a commit, while phones send."""
    settings = replace(topics(bootstrap_servers), session_timeout=timedelta(seconds=6))
    phones = Phones(settings, 8)
    dice = random.Random(1)
    members = [Member(settings, tmp_path)]
    running = list(members)
    progress: list[dict[int, int]] = []
    try:
        for second in range(20):
            began = time.monotonic()
            for _ in range(4):
                phones.send()
            running.append(Member(settings, tmp_path))
            members.append(running[-1])
            if len(running) > 3:
                running.pop(dice.randrange(3)).leave(crash=second % 2 == 0)
            if second % 9 == 1 and seen(tmp_path):
                progress.append(dict(rows(tmp_path).group_by("kafka_partition").agg(pl.len()).iter_rows()))
            time.sleep(max(0.0, 1 - (time.monotonic() - began)))  # this is the storm's pace
        phones.send(last=True)
        phones.close()
        progress.append(dict(rows(tmp_path).group_by("kafka_partition").agg(pl.len()).iter_rows()))
        until(lambda: seen(tmp_path) == phones.samples, 120)
    finally:
        for member in running:
            member.leave(crash=False)
        for member in members:
            member.thread.join(60)
    assert [member.failure for member in members if member.failure is not None] == []
    assert not any(member.thread.is_alive() for member in members)
    settled(tmp_path, phones.samples)
    assert set(progress[-1]) == {0, 1, 2, 3}, "every partition gets on while it lasts"
    counted = total(member.ingest.counters() for member in members if member.ingest is not None)
    assert counted["revocations"] > 15, "it was a storm"
    gc.collect()  # so that what kafka-python leaves behind is not found in another test


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[tuple[BrokerSettings, Path]]:
    """A broker of this test alone, to be killed."""
    port, controller_port = ports.free_ports(2)
    settings, home = BrokerSettings(port=port, controller_port=controller_port), tmp_path / "broker"
    broker.start(settings, home=home, die_with_parent=True)
    yield settings, home
    broker.stop(home)


def test_a_broker_that_is_killed_and_comes_back_is_waited_for(
    own_broker: tuple[BrokerSettings, Path], tmp_path: Path, started: list[Consumer]
) -> None:
    settings, home = own_broker
    servers = f"127.0.0.1:{settings.port}"
    names = topics(servers)
    phones = Phones(names, 4)
    for _ in range(20):
        phones.send()
    phones.close()
    lake_home = tmp_path / "home"
    consumer = Consumer(names, lake_home)
    started.append(consumer)
    until(lambda: seen(lake_home) > 0)
    before = seen(lake_home)
    found = broker.status(home)
    assert found is not None
    for member in [psutil.Process(found.pid), *psutil.Process(found.pid).children(recursive=True)]:
        member.kill()
    consumer.wait_told("Kafka does not answer")
    broker.stop(home)
    broker.start(settings, home=home, die_with_parent=True)
    consumer.wait_told("Kafka answers again")
    later = Phones(names, 4)
    later.second = 20
    for second in range(20):
        later.send(last=second == 19)
    later.close()
    until(lambda: seen(lake_home) == 40 * 4 * 25)
    assert before < seen(lake_home)
    consumer.stop()
    settled(lake_home, 40 * 4 * 25)


def test_several_workers_share_the_partitions_and_status_says_how_far_they_are(
    bootstrap_servers: str, tmp_path: Path, started: list[Consumer]
) -> None:
    settings = topics(bootstrap_servers)
    phones = Phones(settings, 4)
    for second in range(20):
        phones.send(last=second == 19)
    phones.close()
    port = next(port for port in ports.free_ports(20) if ports.is_free("127.0.0.1", port + 1))
    # A busy machine must not make a zombie of one of them: that would be a restart.
    patient = {"INGEST__METRICS_PORT": str(port), "KAFKA__SESSION_TIMEOUT": "PT30S"}
    workers = Consumer(settings, tmp_path, "--workers", "2", **patient)
    started.append(workers)
    until(lambda: seen(tmp_path) == phones.samples)
    lag = "sensorloop_ingest_lag_records"
    until(lambda: lag in scraped(port) + scraped(port + 1))
    assert lag in scraped(port) + scraped(port + 1)
    counted = workers.stop()
    assert (counted["workers"], counted["restarts"], counted["rows"]) == (2, 0, 80), workers.told()
    assert counted["records"] >= 80, "what the first had read when the second joined may be read again"
    settled(tmp_path, phones.samples)
    done = subprocess.run(
        [sys.executable, "-m", "sensorloop", "status", "--once"], cwd=tmp_path, check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SENSORLOOP_HOME": str(tmp_path), **environment(settings)}, timeout=60,
    )  # fmt: skip
    status = json.loads(done.stdout.splitlines()[-1])
    assert (status["lag"], len(status["partitions"])) == (0, 4)
    assert status["valid_through"] is not None
    assert "complete until" in done.stderr
    assert done.stderr.startswith(f"Lake {tmp_path}/lake, Kafka ")


def scraped(port: int) -> str:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.HTTPError:
        return ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount: the fault at the storage seam is tested in test_operating.py")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full_is_waited_for(
    bootstrap_servers: str, small_disk: Path, tmp_path: Path, started: list[Consumer]
) -> None:
    settings = topics(bootstrap_servers)
    phones = Phones(settings, 4)
    for second in range(60):
        phones.send(last=second == 59)
    phones.close()
    # The tables are there, and then there is no room for a file.
    WindowsTable(LakeSettings(uri=str(small_disk)), ("accelerometer",))
    LabelsTable(LakeSettings(uri=str(small_disk)))
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(2 << 20))
    consumer = Consumer(settings, tmp_path, LAKE__URI=str(small_disk))
    started.append(consumer)
    consumer.wait_told("Reading is paused")
    assert "No space left" in consumer.told()
    assert scan_windows(str(small_disk)).collect().height == 0, "no torn file is visible"
    ballast.unlink()
    consumer.wait_told("It works again")
    until(lambda: scan_windows(str(small_disk)).collect().height == 240)
    counted = consumer.stop()
    assert counted["records"] == 240, "what was held was not read again"
    assert verify(str(small_disk)).problems == ()


def test_a_record_with_neither_key_nor_value_is_a_dead_letter(bootstrap_servers: str) -> None:
    settings = topics(bootstrap_servers, partitions=1)
    dead = KafkaDeadLetters(settings)
    headers = {"reason": "empty", "detail": "", "topic": settings.batches_topic, "partition": "0", "offset": "7"}
    dead.send(None, key=None, headers=headers)
    dead.flush()
    dead.close()
    assert [(letter.offset, letter.bytes) for letter in letters(settings)] == [(7, 0)]
