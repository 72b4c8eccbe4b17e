"""Ten thousand phones, one of which sends half of all data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from streaming.ingest import Ingest
from streaming.settings import LakeSettings
from streaming.verify import verify
from streaming.windows import WindowsTable
from streaming.wire import SensorBatch
from tests.fakes.source import FakeSource

from .ingesting import P0, Rig, log
from .sessions import EPOCH, SECOND, SETTINGS, batch

PHONES = 10_000
SECONDS = 2
LOUD_SECONDS = 20
"""Of a batch of the loud phone."""
LOUD = PHONES * SECONDS // LOUD_SECONDS
"""Its batches."""


def _traffic() -> Iterator[SensorBatch]:
    """All phones begin, then all end, and the loud one between any of them."""
    sent = 0
    for second in range(SECONDS):
        for phone in range(PHONES):
            yield batch(second, session="quiet", device=f"d{phone}", end=second == SECONDS - 1)
            if phone % LOUD_SECONDS == 0:
                start_ns = EPOCH + sent * LOUD_SECONDS * SECOND
                yield batch(
                    sent, session="loud", device="loud", start_ns=start_ns, samples=25 * LOUD_SECONDS, end=sent == LOUD - 1
                )  # fmt: skip
                sent += 1


def test_each_has_its_windows_and_the_loud_one_holds_nobody_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(_traffic())}, commit_rows=4_000, memory_budget=64 << 20)
    held = 0

    def restarted() -> None:
        rig.source = FakeSource(rig.logs, poll_records=1_000)
        rig.source.assign(P0)
        rig.ingest = Ingest(
            source=rig.source, dead_letters=rig.dead_letters, windows=SETTINGS, settings=rig.settings, clock=rig.clock,
            table=WindowsTable(LakeSettings(uri=str(rig.folder)), SETTINGS.sensors),
        )  # fmt: skip

    restarted()
    for _ in range(14):
        rig.ingest.step()
        held = max(held, rig.ingest.held_bytes)
    assert rig.rows().filter(pl.col("session_id") == "loud").height > 4_000, (
        "its windows do not wait for those of the others"
    )
    restarted()  # a crash, while all phones are in the middle of their sessions
    counters = rig.until_caught_up()
    rows = rig.rows().group_by("device_id").agg(pl.len().alias("windows"), pl.col("acc_fresh").sum().alias("samples"))
    quiet, loud = rows.filter(pl.col("device_id") != "loud"), rows.filter(pl.col("device_id") == "loud")
    assert (quiet.height, set(quiet["windows"]), set(quiet["samples"])) == (PHONES, {SECONDS}, {25 * SECONDS})
    assert loud["samples"].item() == quiet["samples"].sum(), "half of all data"
    assert loud["windows"].item() == LOUD * LOUD_SECONDS
    assert counters["open_sessions"] == 0
    assert held < rig.settings.memory_budget
    proof = verify(str(tmp_path))
    assert (proof.problems, proof.absent_offsets) == ((), 0)
