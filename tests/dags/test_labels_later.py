"""Labels that come a week after their windows, through a real Kafka and the commands: the next rescoring counts them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kafka
import numpy as np
import polars as pl
import pytest

from dags import retraining, runs, work
from dags.settings import Settings, load
from streaming.lake import read_quality, table_version
from streaming.tables import LABELS, NO_LABELS
from streaming.verify import verify
from streaming.wire import SensorBatch, SensorBlock, encode
from tests.dags.places import TOML, Place
from tests.test_sensorloop import answer, run
from tests.training.made import RATE, SCENES, windows
from training.tracking import no_progress

pytestmark = [pytest.mark.broker, pytest.mark.slow]

BEGIN = 1_700_000_000 * 10**9
WEEK = 7 * 86_400 * 10**9
MADE = windows(people=5, each=5, seed=3)
UNLABELLED_PERSON = "p4"


def start_of(at: int) -> int:
    return BEGIN + at * 10 * 10**9


def batches() -> list[SensorBatch]:
    """A session a window; one of the people says nothing."""
    sent = []
    for at in range(len(MADE)):
        block = SensorBlock(
            sensor="accelerometer", axes=("x", "y", "z"), values=MADE.signals[at].T, start_ns=start_of(at),
            period_ns=int(10**9 / RATE),
        )  # fmt: skip
        subject = str(MADE.subjects[at])
        scene = None if subject == UNLABELLED_PERSON else SCENES[MADE.scenes[at]]
        sent.append(
            SensorBatch(
                device_id=f"d-{subject}", session_id=f"s{at}", sequence=0, subject_id=subject, cohort="week", scene=scene,
                end_of_session=True, blocks=(block,),
            )
        )  # fmt: skip
    return sent


@dataclass(frozen=True, kw_only=True)
class Installation:
    """One of its own, whose phones have sent their batches."""

    folder: Path
    environ: dict[str, str]

    def command(self, *arguments: str) -> dict[str, Any]:
        """What a command answers, as a process."""
        return answer(run(self.folder, *arguments, **self.environ))

    def settings(self) -> Settings:
        place = {"SENSORLOOP_HOME": str(self.folder / "var"), "SENSORLOOP_CONFIG": str(self.folder / "sensorloop.toml")}
        return load({**self.environ, **place})

    def pin(self) -> work.Pin:
        return work.pin(self.settings(), "week")

    def rescore(self, pin: work.Pin) -> str:
        """The run key."""
        done = retraining.rescore(
            self.settings(), cohort="week", lake_version=pin.lake_version, labels_version=pin.labels_version, seed=0,
            progress=no_progress,
        )  # fmt: skip
        runs.judge(self.settings().runs / done["run_key"], "filterloss", passed=False)
        return str(done["run_key"])


@pytest.fixture
def installation(
    tmp_path: Path, trained: tuple[Place, dict[str, Any]], bootstrap_servers: str, new_topic: Callable[[int], str]
) -> Installation:
    shutil.copytree(trained[0].settings().original_folder, tmp_path / "var" / "original")
    (tmp_path / "var" / "mlflow").mkdir()  # the local server's, where who is held out is kept
    (tmp_path / "sensorloop.toml").write_text(TOML, encoding="utf-8")
    names = {name: new_topic(2) for name in ("batches_topic", "labels_topic", "deadletter_topic")}
    environ = {f"SENSORLOOP_KAFKA__{name.upper()}": topic for name, topic in names.items()}
    environ |= {"KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers, "SENSORLOOP_KAFKA__GROUP_ID": names["batches_topic"]}
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    for batch in batches():
        producer.send(names["batches_topic"], value=encode(batch), key=batch.device_id.encode())
    producer.send(names["labels_topic"], value=b"no label", key=b"d")
    producer.flush()
    producer.close()
    return Installation(folder=tmp_path, environ=environ)


def say_a_week_later(installation: Installation, revised: int, withdrawn: int) -> int:
    """The one who said nothing is asked, one label is revised and one withdrawn. Returns how many labels that is."""
    silent = np.flatnonzero(MADE.subjects == UNLABELLED_PERSON).tolist()
    pl.DataFrame(
        {
            "device_id": [f"d-{UNLABELLED_PERSON}"] * len(silent), "start": [start_of(at) for at in silent],
            "end": [start_of(at) + 5 * 10**9 for at in silent], "scene": [SCENES[MADE.scenes[at]] for at in silent],
            "said": [start_of(at) + WEEK for at in silent],
        }
    ).write_csv(installation.folder / "asked.csv")  # fmt: skip
    assert installation.command("label", "import", "asked.csv", "--by", "ana")["sent"] == len(silent)
    for at, what in ((revised, ("--scene", "Walk")), (withdrawn, ("--withdraw",))):
        session = (
            "--device",
            "d-p0",
            "--session",
            f"s{at}",
            "--from",
            str(start_of(at)),
            "--to",
            str(start_of(at + 1)),
        )
        installation.command("label", "send", *session, *what)
    return len(silent) + 2


def test_a_label_that_comes_a_week_later_counts_at_the_next_rescoring(installation: Installation) -> None:
    revised, withdrawn = 0, 6
    assert [(MADE.subjects[at], SCENES[MADE.scenes[at]]) for at in (revised, withdrawn)] == [
        ("p0", "Run"),
        ("p0", "Still"),
    ]
    command, lake = installation.command, str(installation.folder / "var" / "lake")
    ingested = command("ingest", "--until-caught-up")
    assert (ingested["label_dead_letters"], ingested.get("labels", 0)) == (1, 0)
    first_pin = installation.pin()
    first = installation.rescore(first_pin)
    before = read_quality(lake, first)
    assert not before["subject_id"].is_in([UNLABELLED_PERSON]).any()
    assert before.height == first_pin.fresh
    assert installation.pin().fresh == 0

    count = say_a_week_later(installation, revised, withdrawn)
    ingested = command("ingest", "--until-caught-up")
    assert (ingested["labels"], ingested["labels_withdrawn"], ingested.get("rows", 0)) == (count, 1, 0)
    assert command("label", "list", "--device", "d-p0")["total"] == 2

    pinned = installation.pin()
    assert pinned.lake_version == first_pin.lake_version
    assert pinned.labels_version == ingested["labels_version"]
    assert pinned.labels_version > first_pin.labels_version
    versions = ("--lake-version", str(pinned.lake_version), "--labels-version", str(pinned.labels_version))
    second = str(command("rescore", "--cohort", "week", *versions)["run_key"])
    after = read_quality(lake, second)
    assert second != first
    assert after["labels_version"].unique().to_list() == [pinned.labels_version]
    both = before.join(after, on="window_id", how="full", suffix="_after")
    changed = both.filter(pl.col("label").ne_missing(pl.col("label_after")))
    new = changed.filter(pl.col("label").is_null())
    assert set(new["subject_id_after"]) == {UNLABELLED_PERSON}
    assert set(new["label_after"]) == set(SCENES)
    other = changed.filter(pl.col("label").is_not_null()).unique(["label", "label_after"])
    assert sorted(other.select("label", "label_after").rows(), key=str) == [("Run", "Walk"), ("Still", None)]
    assert pinned.fresh == changed["label_after"].count(), "new ones and revised ones, but not what was withdrawn"
    assert installation.pin().fresh == pinned.fresh, "the run has not come to its end"
    runs.judge(installation.settings().runs / second, "filterloss", passed=False)
    assert installation.pin().fresh == 0
    assert installation.rescore(first_pin) == first, "what was pinned is still what it was"
    assert installation.rescore(replace(pinned, labels_version=NO_LABELS)) not in {first, second}

    settings = installation.settings()
    done = retraining.rescore(
        replace(settings, data=replace(settings.data, verified_by=("ana", "anna"))), cohort="week", lake_version=pinned.lake_version,
        labels_version=pinned.labels_version, seed=0, progress=no_progress,
    )  # fmt: skip
    verified = read_quality(lake, done["run_key"]).filter(pl.col("subject_id") == UNLABELLED_PERSON)
    unverified = after.filter(pl.col("subject_id") == UNLABELLED_PERSON)
    assert done["verified"] + done["verified_held_out"] == verified.height == unverified.height > 0
    missing = "1 more people with some" if done["verified"] else "5 more verified windows and 2 more people with some"
    assert done["verified_lacks"] == dict.fromkeys(SCENES, missing), "one person's, whoever says it"
    assert done["verified_unknown"] == {"anna": "ana"}
    assert verified["belief"].to_list() == [1.0] * verified.height
    assert max(unverified["belief"].to_list()) < 1
    proof = verify(lake, LABELS)
    assert (proof.problems, proof.rows) == ((), count)


def test_windows_of_another_length_do_not_get_into_a_lake(installation: Installation) -> None:
    installation.command("ingest", "--until-caught-up")
    lake = str(installation.folder / "var" / "lake")
    before = table_version(lake)
    environ = {**installation.environ, "SENSORLOOP_WINDOWS__LENGTH": "10"}
    for workers in ((), ("--workers", "2")):
        refused = run(installation.folder, "ingest", "--until-caught-up", *workers, **environ)
        assert refused.returncode == 3
        assert f"error: The lake {lake}/windows has windows of " in refused.stderr
        assert ", and [windows] says 10 s at " in refused.stderr
    assert table_version(lake) == before
