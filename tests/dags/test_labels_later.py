"""Labels that come a week after their windows, through a real Kafka and the commands: the next rescoring counts them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kafka
import numpy as np
import polars as pl
import pytest

from streaming.lake import read_quality
from streaming.wire import SensorBatch, SensorBlock, encode
from tests.dags.places import TOML, Place
from tests.test_sensorloop import answer, run
from tests.training.made import RATE, SCENES, windows

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


@pytest.fixture
def command(
    tmp_path: Path, trained: tuple[Place, dict[str, Any]], bootstrap_servers: str, new_topic: Callable[[int], str]
) -> Callable[..., dict[str, Any]]:
    """Runs a command of ours in an installation of its own, whose phones have sent their batches."""
    shutil.copytree(trained[0].settings().original_folder, tmp_path / "var" / "original")
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
    return lambda *arguments: answer(run(tmp_path, *arguments, **environ))


def test_a_label_that_comes_a_week_later_counts_at_the_next_rescoring(
    command: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    ingested = command("ingest", "--until-caught-up")
    assert (ingested["label_dead_letters"], ingested.get("labels", 0)) == (1, 0)
    first_pin = command("lake", "pin", "--cohort", "week")
    first = command("rescore", "--cohort", "week")
    lake = str(tmp_path / "var" / "lake")
    before = read_quality(lake, first["run_key"])
    assert not before["subject_id"].is_in([UNLABELLED_PERSON]).any()
    assert before.height == first_pin["fresh"]
    assert command("lake", "pin", "--cohort", "week")["fresh"] == 0

    # A week later: the one who said nothing is asked, one label is revised and one withdrawn.
    silent = np.flatnonzero(MADE.subjects == UNLABELLED_PERSON)
    rows = [(f"d-{UNLABELLED_PERSON}", start_of(at), SCENES[MADE.scenes[at]]) for at in silent.tolist()]
    pl.DataFrame(
        {
            "device_id": [row[0] for row in rows], "start": [row[1] for row in rows],
            "end": [row[1] + 5 * 10**9 for row in rows], "scene": [row[2] for row in rows],
            "said": [row[1] + WEEK for row in rows],
        }
    ).write_csv(tmp_path / "asked.csv")  # fmt: skip
    assert command("label", "import", "asked.csv", "--by", "ana")["sent"] == len(rows)
    revised, withdrawn = 0, 6
    assert (MADE.subjects[revised], SCENES[MADE.scenes[revised]]) == ("p0", "Run")
    about = {at: ("--device", "d-p0", "--session", f"s{at}", "--from", str(start_of(at)), "--to", str(start_of(at + 1)))
             for at in (revised, withdrawn)}  # fmt: skip
    command("label", "send", *about[revised], "--scene", "Walk")
    command("label", "send", *about[withdrawn], "--withdraw")
    ingested = command("ingest", "--until-caught-up")
    assert (ingested["labels"], ingested["labels_withdrawn"], ingested.get("rows", 0)) == (len(rows) + 2, 1, 0)
    assert command("label", "list", "--device", "d-p0")["total"] == 2

    pinned = command("lake", "pin", "--cohort", "week")
    assert pinned["lake_version"] == first_pin["lake_version"]
    assert pinned["labels_version"] == ingested["labels_version"] > first_pin["labels_version"]
    versions = ("--lake-version", str(pinned["lake_version"]), "--labels-version", str(pinned["labels_version"]))
    second = command("rescore", "--cohort", "week", *versions)
    after = read_quality(lake, second["run_key"])
    assert second["run_key"] != first["run_key"]
    assert after["labels_version"].unique().to_list() == [pinned["labels_version"]]
    both = before.join(after, on="window_id", how="full", suffix="_after")
    changed = both.filter(pl.col("label").ne_missing(pl.col("label_after")))
    new = changed.filter(pl.col("label").is_null())
    assert set(new["subject_id_after"]) == {UNLABELLED_PERSON}
    assert set(new["label_after"]) == set(SCENES)
    other = changed.filter(pl.col("label").is_not_null()).unique(["label", "label_after"])
    assert sorted(other.select("label", "label_after").rows(), key=str) == [("Run", "Walk"), ("Still", None)]
    assert pinned["fresh"] == changed["label_after"].count(), "new ones and revised ones, but not what was withdrawn"
    assert command("lake", "pin", "--cohort", "week")["fresh"] == 0

    old = ("--lake-version", str(first_pin["lake_version"]), "--labels-version", str(first_pin["labels_version"]))
    assert command("rescore", "--cohort", "week", *old) == first, "what was pinned is still what it was"
    assert command("lake", "verify")["labels"]["rows"] == len(rows) + 2
