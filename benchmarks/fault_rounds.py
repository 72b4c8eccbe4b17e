"""The rounds of the bench of faults: topics and a lake of their own, traffic, a fault, and then ingestion until all is there."""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import polars as pl

from benchmarks.fault_process import REFUSED, Fault, Ingestion, ended
from benchmarks.fault_traffic import PARTITIONS, WINDOWS, Difference, Phones, compare, count, rows
from streaming.cluster import Cluster
from streaming.settings import KafkaSettings
from streaming.topics import admin_client, create_topics
from streaming.verify import verify

SESSION_TIMEOUT_S = 3
BROKER_SETTINGS = "group.min.session.timeout.ms=1000\n"
"""Kafka waits for a member that was killed, 6 s at least by default: 200 times that is half an hour of waiting."""
POINTS = ("publish.files", "publish.checked", "publish.committed")
_LONG_S = 120
"""No step of a round takes so long, also beside other programs; if one does, it hangs."""
_POLL_S = 0.2
_QUIET_S = 2.0
_IDLE = {"SENSORLOOP_WINDOWS__IDLE_TIMEOUT": "PT2S"}


class Stuck(Exception):  # what it is
    """Ingestion did not get on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a round."""

    kind: str
    number: int
    seconds: float
    compared: bool = False
    """Whether its rows were compared: a round that was given up says nothing of them."""
    difference: Difference = field(default_factory=Difference)
    problems: tuple[str, ...] = ()
    """What ``lake verify`` found, and what else should not be."""
    commits: int = 0

    @property
    def right(self) -> bool:
        return self.compared and self.difference == Difference() and not self.problems


class Bench:
    """What the rounds share.

    Args:
        cluster: three brokers.
        home: a folder for each round is made in it, and removed if all was right.
    """

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.cluster, self.home = cluster, home
        self._wanted: dict[int, tuple[pl.DataFrame, dict[int, int]]] = {}
        self._lock = threading.Lock()

    def undisturbed(self, seed: int) -> tuple[pl.DataFrame, dict[int, int]]:
        """The windows of a run in which nothing happens, and where the partitions end; run once a seed."""
        with self._lock:
            if seed not in self._wanted:
                here = Round(self, f"undisturbed-{seed}", seed)
                with here.phones() as phones:
                    phones.send()
                here.settle(None)
                self._wanted[seed] = rows(here.lake), here.ends()
                here.close()
            return self._wanted[seed]

    def perform(self, kind: str, fault: Callable[[Round], None], number: int, seed: int) -> Outcome:
        """One round."""
        begin = time.monotonic()
        here = Round(self, f"{kind.replace(' ', '-')}-{number}", seed)
        try:
            wanted, ends = self.undisturbed(seed)
            fault(here)
            here.settle(wanted.height)
            difference = compare(rows(here.lake), wanted, offsets=here.ends() == ends)
            proof = verify(str(here.lake))
            problems, commits, compared = (*here.problems, *proof.problems), proof.version, True
        except Exception as error:  # noqa: BLE001  # the other rounds say something all the same
            difference, commits, compared = Difference(), 0, False
            problems = (*here.problems, f"{type(error).__name__}: {error}")
        outcome = Outcome(
            kind=kind, number=number, seconds=time.monotonic() - begin, compared=compared, difference=difference,
            problems=problems, commits=commits,
        )  # fmt: skip
        here.close(keep=not outcome.right)
        return outcome


class Round:
    """Topics, a group and a lake of one round."""

    def __init__(self, bench: Bench, name: str, seed: int) -> None:
        self._bench, self.seed, self.dice = bench, seed, random.Random(name)
        self.home = bench.home / name
        self.lake = self.home / "lake"
        self.problems: list[str] = []
        self.kafka = KafkaSettings(
            bootstrap_servers=bench.cluster.bootstrap_servers, group_id=name, batches_topic=f"b-{name}", labels_topic=f"l-{name}",
            deadletter_topic=f"x-{name}",
        )  # fmt: skip
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        self._topics = {
            self.kafka.batches_topic: PARTITIONS,
            self.kafka.labels_topic: 1,
            self.kafka.deadletter_topic: 1,
        }
        create_topics(self.kafka, self._topics)

    def close(self, *, keep: bool = False) -> None:
        with admin_client(self.kafka) as admin:
            admin.delete_topics(list(self._topics))
        if not keep:
            shutil.rmtree(self.home, ignore_errors=True)

    def phones(self) -> Phones:
        return Phones(self.kafka, self.seed)

    def ingestion(
        self, *arguments: str, fault: Fault | None = None, environ: Mapping[str, str] | None = None
    ) -> Ingestion:
        return Ingestion(self._environ() | dict(environ or {}), self.home, *arguments, fault=fault)

    def wait(self, until: Callable[[], bool], what: str, timeout: float = _LONG_S) -> None:
        deadline = time.monotonic() + timeout
        while not until():
            if time.monotonic() > deadline:
                msg = f"after {timeout:g} s it was not so: {what}"
                raise Stuck(msg)
            time.sleep(_POLL_S)

    def wait_quiet(self, before: int) -> None:
        """Until something was committed, and then nothing more for a while: all that can be is."""
        last, since = count(self.lake), time.monotonic()

        def quiet() -> bool:
            nonlocal last, since
            now = count(self.lake)
            if now != last:
                last, since = now, time.monotonic()
            return last > before and time.monotonic() - since > _QUIET_S

        self.wait(quiet, "something was committed")

    def settle(self, wanted: int | None) -> None:
        """Ingest until caught up, and on until the last sessions are over."""
        for _ in range(5):
            process = self.ingestion("--until-caught-up")
            with ended(process):
                code = process.wait(_LONG_S)
                if code == 0:
                    break
                if code is None:
                    msg = f"not caught up after {_LONG_S} s: {process.said()[-500:]}"
                    raise Stuck(msg)
        else:
            msg = f"five consumers one after the other did not catch up; exit code {code}: {process.said()[-500:]}"
            raise Stuck(msg)
        # A session whose end was read before a crash, but not all before it, is closed by its silence.
        if wanted is not None and count(self.lake) < wanted:
            process = self.ingestion(environ=_IDLE)
            with ended(process):
                begin = time.monotonic()
                while count(self.lake) < wanted and time.monotonic() - begin < 30:
                    time.sleep(_POLL_S)
                process.signal(signal.SIGTERM)
                process.wait(15)

    def ends(self) -> dict[int, int]:
        """Partition → one past its newest offset."""
        import kafka  # noqa: PLC0415

        consumer = kafka.KafkaConsumer(bootstrap_servers=self.kafka.bootstrap_servers.split(","))
        try:
            found = consumer.end_offsets([kafka.TopicPartition(self.kafka.batches_topic, p) for p in range(PARTITIONS)])
        finally:
            consumer.close()
        return {partition.partition: end for partition, end in found.items()}

    def _environ(self) -> dict[str, str]:
        seconds = {
            "WINDOWS__LENGTH": WINDOWS.length, "WINDOWS__HOP": WINDOWS.hop, "WINDOWS__LATENESS": WINDOWS.lateness,
            "WINDOWS__MAX_GAP": WINDOWS.max_gap,
        }  # fmt: skip
        values = {name: f"PT{value.total_seconds():g}S" for name, value in seconds.items()} | {
            "WINDOWS__RATE_HZ": str(WINDOWS.rate_hz), "WINDOWS__SENSORS": '["accelerometer", "pressure"]',
            "KAFKA__GROUP_ID": self.kafka.group_id, "KAFKA__BATCHES_TOPIC": self.kafka.batches_topic,
            "KAFKA__LABELS_TOPIC": self.kafka.labels_topic, "KAFKA__DEADLETTER_TOPIC": self.kafka.deadletter_topic,
            "KAFKA__SESSION_TIMEOUT": f"PT{SESSION_TIMEOUT_S}S",
            # Many commits from little traffic.
            "INGEST__COMMIT_ROWS": "40", "INGEST__MAX_POLL_RECORDS": "25", "INGEST__COMMIT_INTERVAL": "PT0.5S",
            "INGEST__COMMIT_IDLE": "PT0.3S",
        }  # fmt: skip
        names = {f"SENSORLOOP_{name}": value for name, value in values.items()}
        return names | {"KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers, "OMP_NUM_THREADS": "1"}


def killed_at(point: str, here: Round) -> None:
    """Kill -9 at a step of a commit, once or several times in a row; the first, or one of those after it."""
    with here.phones() as phones:
        phones.send()
    for after in here.dice.choice([(0,), (1,), (2,), (3,), (0, 0), (2, 1)]):
        process = here.ingestion("--until-caught-up", fault=Fault(what="kill", point=point, after=after))
        with ended(process):
            code = process.wait(_LONG_S)
        if code not in {-signal.SIGKILL, 0, REFUSED}:  # 0: there were fewer commits left
            here.problems.append(f"exit code {code} instead of a death at {point}: {process.said()[-300:]}")


def killed_anywhen(here: Round) -> None:
    """Kill -9 at a random time, once or twice, while phones send."""
    with here.phones() as phones:
        kills = here.dice.randint(1, 2)
        for at in range(kills):
            process = here.ingestion()
            with ended(process):
                phones.send((at + 1) / kills)
                time.sleep(here.dice.uniform(0.2, 2.5))


def storm(here: Round) -> None:
    """Each second a consumer joins and one leaves, half of them killed, while phones send."""
    running: list[Ingestion] = []
    try:
        with here.phones() as phones:
            for second in range(8):
                begin = time.monotonic()
                running.append(here.ingestion())
                phones.send((second + 1) / 8)
                if len(running) > 3:
                    leaving = running.pop(here.dice.randrange(3))
                    leaving.signal(here.dice.choice([signal.SIGKILL, signal.SIGTERM]))
                    # It is looked at later, so that nobody waits for it.
                time.sleep(max(0.0, 1 - (time.monotonic() - begin)))
    finally:
        for process in running:
            process.signal(signal.SIGTERM)
        for process in running:
            if process.wait(15) is None:
                here.problems.append("a consumer was not gone 15 s after SIGTERM")
                process.end()


def zombie(here: Round) -> None:
    """Stopped in the middle of a commit until another has taken over and committed, then continued: it is refused."""
    with here.phones() as phones:
        phones.send()
    fault = Fault(what="stop", point=here.dice.choice(POINTS[:2]), after=here.dice.randrange(2))
    process = here.ingestion(fault=fault)
    owner = None
    with ended(process):
        here.wait(process.stopped, "the zombie stands")
        before = count(here.lake)
        owner = here.ingestion()
        with ended(owner):
            here.wait_quiet(before)
            process.signal(signal.SIGCONT)
            code = process.wait(30)
            if code != REFUSED or "Another consumer has committed" not in process.said():
                here.problems.append(f"the zombie ended with {code}: {process.said()[-300:]}")
            owner.signal(signal.SIGTERM)
            if (code := owner.wait(15)) != 0:
                here.problems.append(f"the owner ended with {code}: {owner.said()[-300:]}")


def answer_lost(here: Round) -> None:
    """A commit takes effect, and what its writer sees is an error; it goes on."""
    with here.phones() as phones:
        phones.send()
    process = here.ingestion("--until-caught-up", fault=Fault(what="lose", after=here.dice.randrange(3)))
    with ended(process):
        code = process.wait(_LONG_S)
        if code != 0 or "the answer was lost" not in process.said():
            here.problems.append(f"exit code {code}: {process.said()[-300:]}")


FAULTS: dict[str, Callable[[Round], None]] = {
    **{f"kill -9 at {point}": partial(killed_at, point) for point in POINTS},
    "kill -9 at any time": killed_anywhen,
    "rebalance storm": storm,
    "zombie": zombie,
    "answer of a commit lost": answer_lost,
}
"""Those of one round alone; the others are outages."""


class Outage:
    """A fault of the cluster that several rounds share, each with traffic before, while and after.

    Args:
        cluster: the brokers.
        rounds: how many take part.
        nodes: those to kill, given the rounds.
        seconds: how long they are dead.
        answers: whether Kafka goes on answering meanwhile.
    """

    def __init__(
        self, cluster: Cluster, rounds: int, nodes: Callable[[Sequence[Round]], Sequence[int]], *, seconds: float, answers: bool
    ) -> None:  # fmt: skip
        self._cluster, self._nodes, self._seconds, self._answers = cluster, nodes, seconds, answers
        self._rounds: list[Round] = []
        self._ready = threading.Barrier(rounds, self._begin)
        self._over = threading.Barrier(rounds)
        self._back = threading.Thread(target=self._outage, daemon=True)
        self._failure: list[BaseException] = []

    def __call__(self, here: Round) -> None:
        process = here.ingestion()
        with ended(process), here.phones() as phones:
            phones.send(0.4)
            here.wait(lambda: count(here.lake) > 0, "something was committed before the outage")
            self._rounds.append(here)
            self._ready.wait(_LONG_S)
            before = count(here.lake)
            if self._answers:
                phones.send(0.8)
                here.wait(lambda: count(here.lake) > before, "ingestion goes on with two brokers")
            self._back.join(_LONG_S + self._seconds)
            if self._failure:
                raise self._failure[0]
            if not self._answers and "Kafka does not answer" not in process.said():
                here.problems.append("it did not say that it waits")
            phones.send()
            here.wait(lambda: count(here.lake) > before, "ingestion resumes")
            here.wait_quiet(before)
            if not process.running():
                here.problems.append(f"it ended with {process.wait(0)}: {process.said()[-300:]}")
            process.signal(signal.SIGTERM)
            process.wait(15)
        self._over.wait(_LONG_S)

    def _begin(self) -> None:
        self._cluster.kill(self._nodes(self._rounds))
        self._back.start()

    def _outage(self) -> None:
        time.sleep(self._seconds)
        try:
            self._cluster.start()
        except BaseException as error:  # noqa: BLE001  # the rounds wait for it
            self._failure.append(error)
